"""`SharedMemoryVecEnv`: runs several environments per worker process and shares observations through one memory block."""

from sb3_carracing.vec_env.shared_memory import SharedMemoryVecEnv, process_vec_env_class
from sb3_carracing.vec_env.worker_handle import WorkerError

__all__ = ["SharedMemoryVecEnv", "WorkerError", "process_vec_env_class"]
