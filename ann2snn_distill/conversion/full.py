"""Full coverage: a neuron in front of every synapse whose input would be analog, but for those that read the image.

So are the projections of attention, its queries, keys and values included. What a softmax or a gate gives is not
encoded: a product with it stays an analog operation, and `inspect` lists it.
"""

from dataclasses import replace

from torch import fx

from ann2snn_distill.conversion.encoders import one_sided, two_sided
from ann2snn_distill.conversion.rules import Kind, Role
from ann2snn_distill.conversion.signals import Signal, find_nonnegative, find_signals
from ann2snn_distill.conversion.sites import Sites


def with_full_coverage(sites: Sites) -> Sites:
    """Return the network with neurons inserted; the graph of `sites` is changed.

    A value that is never negative gets one neuron, any other a pair: one neuron alone would lose its negative half.
    """
    readers: dict[fx.Node, list[fx.Node]] = {}
    for reader, source in _to_encode(sites):
        readers.setdefault(source, []).append(reader)
    nonnegative = find_nonnegative(sites)
    trace = sites.trace
    kinds, roles = dict(sites.kinds), dict(sites.roles)
    paths, shapes, axes = dict(trace.paths), dict(trace.shapes), dict(trace.batch_axes)
    for source, reading in readers.items():
        first = reading[0]
        with trace.graph.inserting_before(first):
            encoder = one_sided if source in nonnegative else two_sided
            node = trace.graph.create_node("call_function", encoder, (source,), name=f"{first.name}_input")
        for reader in reading:
            reader.replace_input_with(source, node)
        kinds[node], roles[node] = Kind.DATA, Role.NEURON
        paths[node], shapes[node], axes[node] = paths[first], shapes[source], axes[source]
    changed = replace(trace, paths=paths, shapes=shapes, batch_axes=axes)
    return Sites(changed, kinds, _in_order(changed.graph, roles))


def _to_encode(sites: Sites) -> list[tuple[fx.Node, fx.Node]]:
    """Return readers and the analog values that they read, in order."""
    signals, nonnegative = find_signals(sites), find_nonnegative(sites)
    learnt = _behind_weights(sites)
    found = []
    for node in sites.roles:
        for source in sites.data_inputs(node):
            if signals[source] is Signal.BINARY or source not in learnt or sites.trace.batch_axes.get(source) != 0:
                continue
            if sites.is_weighted(node) or (sites.is_matrix_product(node) and source not in nonnegative):
                found.append((node, source))
    return found


def _behind_weights(sites: Sites) -> set[fx.Node]:
    """Return the nodes that some layer with weights is in front of; the others carry the image."""
    found: set[fx.Node] = set()
    for node in sites.trace.graph.nodes:
        if sites.has_weights(node) or any(source in found for source in sites.data_inputs(node)):
            found.add(node)
    return found


def _in_order(graph: fx.Graph, roles: dict[fx.Node, Role]) -> dict[fx.Node, Role]:
    return {node: roles[node] for node in graph.nodes if node in roles}
