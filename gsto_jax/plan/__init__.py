"""Cost of train and eval steps, from programs compiled for accelerators that need not be attached.

chips            specifications of TPUs and GPUs
topology         parses names of topologies
targets          devices of a topology, to compile for
compile          compiles a step; finds the largest batch that fits in memory
hlo              parses a compiled HLO program; counts executions inside loops
costs            FLOPs and bytes accessed of an HLO instruction
kernel_schedule  cycles of a Pallas TPU kernel, from its final schedule
step_cost        total cost of a compiled step, by layer, kernel, and collective
step_time        estimated time of a step
speed            images per second, share of the peak, and the input that a step needs
eval_passes      passes of the network that an evaluation image needs
plan_file        a plan as a JSON file, which training compares itself with
tables           plans as tables in the terminal
"""
