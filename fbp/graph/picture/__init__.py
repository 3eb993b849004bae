"""Pictures of computation graphs: boxes that fold, in layers, with the numbers on every edge."""
