"""Published specifications of TPUs and GPUs that `--mode=plan` knows.

TPUs: Google Cloud's pages of v4, v5e, v5p, v6e and TPU7x, read in November 2026. The table of
docs.cloud.google.com/tpu/docs/tpu7x has, per chip of v5p, v6e and TPU7x: memory 95, 32 and 192 GiB,
its bandwidth 2765, 1638 and 7380 GB/s, peak 459, 918 and 2307 TFLOP/s in bfloat16, links 1200, 800
and 1200 GB/s in both directions, data center network (DCN) 50, 100 and 100 Gbit/s. The network of
v5e is that of its host's cards, on the page of v6e. JAX shows a v4 or v5p chip with its two
TensorCores as one device (megacore), and a TPU7x chip as two devices, each with half of the chip.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TpuSpec:
    """Published specification of a TPU, as a device of JAX."""

    memory: int  # GiB of a device
    bandwidth: int  # GB/s of a device
    clock: float  # GHz, derived from the peak FLOP/s if not published
    network: float  # GB/s of a chip between slices
    axes: int = 2  # of a chip grid
    devices: int = 1  # of a chip
    type_prefix: str  # of accelerator types, such as v5litepod-16
    type_units: int = 1  # that an accelerator type counts per chip: two if it counts cores
    chip_config: str = ""  # of libtpu, where its default differs from Cloud TPU


@dataclass(frozen=True)
class GpuSpec:
    """Published specification of a GPU; sizes in bytes."""

    name: str  # of the driver
    memory: int
    bandwidth: int  # GB/s
    clock: float  # GHz
    compute_capability: int  # major version
    num_cores: int
    fpus_per_core: int
    shared_memory_per_core: int
    shared_memory_per_block: int
    l2_cache: int

    @property
    def target_config(self) -> str:
        """XLA's `GpuTargetConfigProto` in text format."""
        has_extension = self.compute_capability >= 9
        extension = "feature_extension: ACCELERATED_FEATURES" if has_extension else ""
        return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {self.shared_memory_per_core}
  threads_per_core_limit: 2048
  core_count: {self.num_cores}
  fpus_per_core: {self.fpus_per_core}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {self.bandwidth}000000000
  l2_cache_size: {self.l2_cache}
  clock_rate_ghz: {self.clock}
  device_memory_size: {self.memory}
  shared_memory_per_block_optin: {self.shared_memory_per_block}
  cuda_compute_capability {{ major: {self.compute_capability} {extension} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{self.name}"
"""


TPUS = {
    "v4": TpuSpec(
        memory=32,
        bandwidth=1228,
        clock=1.05,
        network=3.125,  # not published: that of v5e is assumed
        axes=3,
        type_prefix="v4",
        type_units=2,
        chip_config="megacore",
    ),
    "v5e": TpuSpec(memory=16, bandwidth=819, clock=1.5, network=3.125, type_prefix="v5litepod"),
    "v5p": TpuSpec(
        memory=95,
        bandwidth=2765,
        clock=1.75,
        network=6.25,
        axes=3,
        type_prefix="v5p",
        type_units=2,
    ),
    "v6e": TpuSpec(memory=32, bandwidth=1638, clock=1.75, network=12.5, type_prefix="v6e"),
    "tpu7x": TpuSpec(
        memory=96,
        bandwidth=3690,
        clock=2.2,  # if each core has four matrix units of 256x256
        network=12.5,
        axes=3,
        devices=2,
        type_prefix="tpu7x",
        type_units=2,
    ),
}
GPUS = {
    "a100": GpuSpec(
        name="NVIDIA A100-SXM4-80GB",
        memory=84987740160,
        bandwidth=2039,
        clock=1.41,
        compute_capability=8,
        num_cores=108,
        fpus_per_core=64,
        shared_memory_per_core=167936,
        shared_memory_per_block=166912,
        l2_cache=41943040,
    ),
    "h100": GpuSpec(
        name="NVIDIA H100 80GB HBM3",
        memory=84942979072,
        bandwidth=3352,
        clock=1.98,
        compute_capability=9,
        num_cores=132,
        fpus_per_core=128,
        shared_memory_per_core=233472,
        shared_memory_per_block=232448,
        l2_cache=52428800,
    ),
}
