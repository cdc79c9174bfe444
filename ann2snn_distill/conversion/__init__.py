"""From the graph of an ANN to stages, and from stages to the two programs of an SNN."""
