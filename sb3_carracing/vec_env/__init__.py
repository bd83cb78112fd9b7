"""`SharedMemoryVecEnv`: runs several environments per worker process and shares observations through one memory block."""

from sb3_carracing.vec_env.shared_memory import SharedMemoryVecEnv, WorkerError

__all__ = ["SharedMemoryVecEnv", "WorkerError"]
