"""A workbench for decentralised AI: every promise an experiment that can fail."""
