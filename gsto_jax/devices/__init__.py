"""The mesh of devices, the processes of a run, and the memory of the host."""
