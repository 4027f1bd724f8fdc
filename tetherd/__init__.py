"""The program: one daemon a machine, with the roles gateway, orchestrator and worker."""

__version__ = "0.1.0"
