"""Films of laps on stock CarRacing, and the picture that shows what an agent sees."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_carracing.evaluation import (
    RECORDING_SEED,
    Agent,
    EpisodeResult,
    add_agent_arguments,
    check_pipeline,
    evaluate,
    open_agent,
    pipeline_env,
)
from sb3_carracing.files import next_free
from sb3_carracing.runs import TRAINED_AGENTS, Pipeline, WrapperCall, read_run
from sb3_carracing.system import no_window

FRAMES_PER_SECOND = 50
"""CarRacing's physics."""

GIF_SIZE = (300, 200)
GIF_EVERY = 5
GIF_LIMIT = 5_000_000
"""A GIF of a whole episode shows every fifth frame, at the speed of the game, and stays below 5 MB."""


class Film(gym.Wrapper[Any, Any, Any, Any]):
    """Film every episode of an environment with `render_mode="rgb_array"` and write it to `folder` at the end.

    Goes below whatever repeats frames, above what puts `score` and `frames` into `info` (`RawScore`).

    Args:
        env: makes the pictures.
        folder: for files `track_<seed>_score_<score>.gif`, or `.mp4`; none is overwritten, but numbered.
        mp4: MP4 with every frame (needs moviepy) instead of GIF with every fifth.
    """

    def __init__(self, env: gym.Env[Any, Any], folder: Path, mp4: bool = False) -> None:
        super().__init__(env)
        self._folder = folder
        self._mp4 = mp4

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin a film."""
        self._seed = seed
        self._pictures: list[np.ndarray] = []
        observation, info = self.env.reset(seed=seed, options=options)
        self._shoot(0, 0.0)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Add a picture where one is due; write the film when the episode is over."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        over = terminated or truncated
        if self._mp4 or over or info["frames"] % GIF_EVERY == 0:
            self._shoot(info["frames"], info["score"])
        if over:
            name = f"track_{self._seed}_score_{info['score']:.0f}"
            self._folder.mkdir(parents=True, exist_ok=True)
            if self._mp4:
                write_mp4(self._pictures, next_free(self._folder / f"{name}.mp4"))
            else:
                write_gif(self._pictures, next_free(self._folder / f"{name}.gif"))
            self._pictures = []
        return observation, reward, terminated, truncated, info

    def _shoot(self, frame: int, score: float) -> None:
        picture = Image.fromarray(np.asarray(self.env.render()))
        if not self._mp4:
            picture = picture.resize(GIF_SIZE, Image.Resampling.BOX)
        # An array is three bytes a pixel, PIL's picture four: a film at full size is some 1,000 of them.
        self._pictures.append(np.asarray(with_caption(picture, f"frame {frame}   score {score:.1f}")))


def with_caption(picture: Image.Image, caption: str) -> Image.Image:
    """Return `picture` with white words on a dark strip along its top."""
    picture = picture.convert("RGB")
    height = max(picture.height // 14, 12)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, picture.width, height), fill=(20, 20, 20))
    draw.text((height // 2, height // 2), caption, fill="white", font=ImageFont.load_default(height * 0.8), anchor="lm")
    return picture


def write_gif(frames: Sequence[np.ndarray], file: Path) -> None:
    """Write pictures (height, width, 3) uint8 that are `GIF_EVERY` frames apart.

    Fewer colours, then fewer pictures, if the file grows past 5 MB.
    """
    pictures = [Image.fromarray(frame) for frame in frames]
    for n_colors, step in ((64, 1), (32, 1), (32, 2), (16, 4)):
        # One palette for all: it does not flicker, and equal pixels of two pictures need no bytes.
        samples = frames[:: max(1, len(frames) // 8)]
        palette = Image.fromarray(np.concatenate(samples)).quantize(n_colors)
        kept = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures[:-1:step]]
        last = pictures[-1].quantize(palette=palette, dither=Image.Dither.NONE)
        duration = 1000 * GIF_EVERY * step // FRAMES_PER_SECOND
        durations = [*[duration] * len(kept), 2000]
        first, *rest = [*kept, last]
        first.save(file, save_all=True, append_images=rest, duration=durations, loop=0, optimize=False)
        if file.stat().st_size < GIF_LIMIT:
            return


def write_mp4(frames: Sequence[np.ndarray], file: Path) -> None:
    """Write pictures (height, width, 3) uint8 that are one frame apart; ValueError without moviepy."""
    clip = _moviepy()(frames, fps=FRAMES_PER_SECOND)
    clip.write_videofile(str(file), logger=None, audio=False)


def _moviepy() -> Any:
    try:
        from moviepy.video.io.ImageSequenceClip import ImageSequenceClip
    except ImportError as error:
        raise ValueError("--mp4 needs moviepy: pip install 'sb3-carracing[video]'") from error
    return ImageSequenceClip


def record(
    agent: Agent,
    folder: Path,
    seeds: Sequence[int],
    *,
    actions: str = "deterministic",
    mp4: bool = False,
    progress: bool = False,
) -> list[EpisodeResult]:
    """Film one episode of stock CarRacing-v3 on each track and return the results.

    Raises:
        ValueError: before the first episode, if anything does not fit.
    """
    if mp4:
        _moviepy()
    film = WrapperCall(f"{__name__}.Film", {"folder": folder, "mp4": mp4})
    make_env = pipeline_env(agent.pipeline, render_mode="rgb_array", innermost=[film])
    wrap = agent.pipeline.wrap_vec_env
    return evaluate(agent.model, make_env, seeds, actions=actions, wrap_vec_env=wrap, progress=progress)


def split_pictures(observation: np.ndarray) -> list[np.ndarray]:
    """Return the pictures in an observation, oldest first: each (height, width) grey or (height, width, 3) colour.

    Takes one picture; a stack along a new first axis (gymnasium) or along the last one (SB3's VecFrameStack).

    Raises:
        ValueError: it holds no pictures.
    """
    shape = observation.shape
    if observation.dtype == np.uint8 and len(shape) == 2:
        return [observation]
    if observation.dtype == np.uint8 and len(shape) == 3:
        if shape[-1] % 3 == 0 and shape[-1] < min(shape[:2]):
            return np.split(observation, shape[-1] // 3, axis=-1)
        first = shape[0] < shape[-1]
        return list(observation) if first else list(np.moveaxis(observation, -1, 0))
    if observation.dtype == np.uint8 and len(shape) == 4 and shape[-1] == 3:
        return list(observation)
    raise ValueError(f"there are no pictures in observations of shape {shape} and type {observation.dtype}")


def preview(pipeline: Pipeline, file: Path, frames: int = 60) -> None:
    """Draw, after some frames of random driving, the picture for people beside all that the agent sees.

    Raises:
        ValueError: the environment cannot be made or its observations are no pictures.
    """
    no_window()
    make_env = pipeline_env(pipeline, renderer=None, render_mode="rgb_array")
    check_pipeline(None, make_env, pipeline.wrap_vec_env)
    venv = pipeline.wrap_vec_env(DummyVecEnv([make_env]))
    venv.seed(RECORDING_SEED)
    venv.action_space.seed(0)
    observation = venv.reset()
    played = 0
    over = False
    while played < frames and not over:
        observation, _, (over,), infos = venv.step(np.array([venv.action_space.sample()]))
        played = infos[0]["frames"]
    raw = np.asarray(venv.render())
    venv.close()
    if isinstance(observation, dict):
        raise ValueError(f"{pipeline.env_id} has observations of several parts: {', '.join(observation)}")
    seen = split_pictures(np.asarray(observation)[0])

    figure = Figure(figsize=(4.5 + 2.2 * len(seen), 3.2), layout="constrained")
    axes = figure.subplots(1, 1 + len(seen), width_ratios=[1.8, *[1.0] * len(seen)], squeeze=False)[0]
    titles = [f"{pipeline.env_id}, frame {played}", *(f"step t-{age}" if age else "step t" for age in range(len(seen))[::-1])]
    for axis, picture, title in zip(axes, [raw, *seen], titles, strict=True):
        axis.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_title(f"{title}\n{' x '.join(map(str, np.shape(picture)))}", fontsize="small")
        axis.set_axis_off()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120, bbox_inches="tight")


def main(argv: list[str]) -> None:
    """Run `python -m sb3_carracing record`; bad input ends with one sentence and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m sb3_carracing record",
        description="Film laps on stock CarRacing-v3 with the running score on them, as GIF files.",
    )
    add_agent_arguments(parser)
    parser.add_argument("-n", type=int, default=1, metavar="N", help="number of laps (default: 1)")
    parser.add_argument("--stochastic", action="store_true", help="sampled actions instead of deterministic ones")
    parser.add_argument("--seed", type=int, default=RECORDING_SEED, metavar="S", help="first track (default: 3000000)")
    parser.add_argument("--mp4", action="store_true", help="MP4 files with every frame (needs the video extra)")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder (default: RUN/recordings)")
    args = parser.parse_args(argv)
    try:
        if args.n < 1 or args.seed < 0:
            raise ValueError(f"-n must be at least 1 and --seed at least 0, got {args.n} and {args.seed}")
        if args.mp4:
            _moviepy()
        agent = open_agent(args)
        make_env = pipeline_env(agent.pipeline)
        check_pipeline(agent.model, make_env, agent.pipeline.wrap_vec_env)
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")
    folder = args.output or agent.folder / "recordings"
    actions = "sample" if args.stochastic else "deterministic"
    try:
        results = record(agent, folder, range(args.seed, args.seed + args.n), actions=actions, mp4=args.mp4, progress=True)
    except KeyboardInterrupt:
        parser.exit(130, "interrupted\n")
    for result in results:
        lap = "finished" if result.lap_finished else "not finished"
        print(f"track {result.seed}: score {result.score:.1f} in {result.frames} frames, lap {lap}")
    print(f"written to {folder}/")


def preview_main(argv: list[str]) -> None:
    """Run `python -m sb3_carracing preview`; bad input ends with one sentence and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m sb3_carracing preview",
        description="Draw the raw picture beside what the agent sees, for an environment id or a run.",
    )
    parser.add_argument("subject", metavar="ID|RUN", help="environment id, or run folder")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="picture (default: preview_<ID>.png)")
    parser.add_argument("--frames", type=int, default=60, metavar="N", help="frames driven at random before (default: 60)")
    args = parser.parse_args(argv)
    try:
        if not 1 <= args.frames <= 900:
            raise ValueError(f"--frames must be from 1 to 900, got {args.frames}")
        is_run = Path(args.subject).is_dir() or Path(args.subject).parts[:1] == (TRAINED_AGENTS,)
        pipeline = read_run(args.subject).pipeline if is_run else Pipeline(args.subject)
        file = args.output or Path(f"preview_{pipeline.env_id.replace('/', '-')}.png")
        preview(pipeline, file, args.frames)
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")
    print(f"written: {file}")
