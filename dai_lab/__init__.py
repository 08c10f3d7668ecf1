"""A workbench for decentralized AI: every promise an experiment that can fail."""
