"""What a run reports: schemas and their renderings."""
