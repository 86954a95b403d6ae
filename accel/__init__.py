"""What makes updates fast without changing what they compute.

- `runtime`: where and how a run computes, resolved once from its settings;
- `generators`: PyTorch's, kept and put back;
- `threads`: the cores and the memory of a process on a CPU;
- `compiling`: steps that ``torch.compile`` has fused, within updates only;
- `graphs`: a whole update or a policy's step recorded as one CUDA graph, replayed as one launch;
- `fallback`: a function in the fastest of these ways that works on this machine.
"""
