"""Writers, bundle and proof: from a graph to artifacts that are shown to be the same model."""
