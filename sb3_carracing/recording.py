"""Videos of laps on stock CarRacing, and an image of what an agent sees."""

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_carracing.agents import Agent
from sb3_carracing.checks import one_of
from sb3_carracing.cockpit import SIZE, Frames, Shot, Take, Thought, compressed, newest_image
from sb3_carracing.deprecated import old_names
from sb3_carracing.drives import car_state, decision_of, road_of
from sb3_carracing.envs.counts import counts_of
from sb3_carracing.errors import UserError
from sb3_carracing.evaluation import RECORDING_SEED, EpisodeResult, check_actions, check_pipeline, evaluate
from sb3_carracing.files import check_output_file, check_writable, next_free, replacing, write_atomically
from sb3_carracing.pipelines import Pipeline, Renderer, WrapperCall, pipeline_env
from sb3_carracing.progress import ProgressLine
from sb3_carracing.system import no_window

__getattr__ = old_names(__name__)

FRAMES_PER_SECOND = 50
"""Rate of CarRacing's physics."""

GIF_SIZE = (300, 200)
GIF_EVERY = 5
GIF_LIMIT = 5_000_000
"""Bytes. A GIF of a whole episode shows every fifth frame, at the speed of the game, and stays below this."""


class Film(gym.Wrapper[Any, Any, Any, Any]):
    """Film every episode of a CarRacing with `render_mode="rgb_array"`.

    It belongs below wrappers that repeat actions and above the wrapper that counts frames (`RawScore`).

    Args:
        env: renders the frame images.
        reel: takes the shots.
        every: frames from one shot to the next; the last frame is always shot.
    """

    def __init__(self, env: gym.Env[Any, Any], reel: "Reel", every: int = 1) -> None:
        super().__init__(env)
        self._reel = reel
        self._every = every

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin a film."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._reel.take.road = road_of(self.unwrapped)
        self._shoot(0, 0.0)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Shoot the frame if one is due."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        counts = counts_of(info)
        assert counts is not None, "Film belongs around what counts"
        if terminated or truncated or counts.frames % self._every == 0:
            self._shoot(counts.frames, counts.score)
        return observation, reward, terminated, truncated, info

    def _shoot(self, frame: int, score: float) -> None:
        image = compressed(np.asarray(self.env.render()))
        self._reel.take.shots.append(Shot(image, car_state(self.unwrapped, frame, score), self._reel.thought))


class Reel:
    """The take of one episode; as the `watch` of `evaluate`, it knows what the agent thinks in each shot.

    Args:
        name: what to call the agent.
        model: the model that `evaluate` plays.
    """

    def __init__(self, name: str, model: Any) -> None:
        self.take = Take.of(name, model)
        self.thought: Thought | None = None
        self._model = model

    def decided(self, seed: int, observation: Any, action: Any) -> None:
        """Note a decision, before it is played."""
        flat = np.atleast_1d(np.asarray(action, np.float32)).flatten()
        self.thought = Thought(decision_of(self._model, observation), flat, newest_image(observation))

    def ended(self, seed: int, info: dict[str, Any]) -> None:
        """Do nothing: the take is complete."""


def plain_frames(take: Take, size: tuple[int, int]) -> list[np.ndarray]:
    """Return a take's renderings in a size (width, height), with frame and score on them and nothing else."""
    images = [Image.open(io.BytesIO(shot.image)).resize(size, Image.Resampling.BOX) for shot in take.shots]
    captions = [f"frame {shot.of_car('frame'):.0f}   score {shot.of_car('score'):.1f}" for shot in take.shots]
    return [np.asarray(with_caption(image, caption)) for image, caption in zip(images, captions, strict=True)]


class WindowCloses(gym.Wrapper[Any, Any, Any, Any]):
    """Raise KeyboardInterrupt when the user closes the window of an environment with `render_mode="human"`.

    Gymnasium draws the window but ignores its close button.
    """

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step, unless the window is closed."""
        import pygame

        if pygame.display.get_init() and pygame.event.peek(pygame.QUIT):
            raise KeyboardInterrupt
        return self.env.step(action)


def with_caption(image: Image.Image, caption: str) -> Image.Image:
    """Return `image` with white text on a dark strip along its top."""
    image = image.convert("RGB")
    height = max(image.height // 14, 12)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, image.width, height), fill=(20, 20, 20))
    draw.text((height // 2, height // 2), caption, fill="white", font=ImageFont.load_default(height * 0.8), anchor="lm")
    return image


def write_gif(frames: Sequence[np.ndarray], file: Path) -> None:
    """Write images `(height, width, 3)` uint8 that are `GIF_EVERY` frames apart.

    If the file grows past `GIF_LIMIT`, it gets fewer colors, then fewer images.
    """
    images = [Image.fromarray(frame) for frame in frames]
    for n_colors, step in ((64, 1), (32, 1), (32, 2), (16, 4)):
        # One palette for all images avoids flicker, and unchanged pixels take no bytes.
        samples = images[:: max(1, len(images) // 8)]
        palette = Image.fromarray(np.concatenate([np.asarray(image) for image in samples])).quantize(n_colors)
        kept = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images[:-1:step]]
        last = images[-1].quantize(palette=palette, dither=Image.Dither.NONE)
        duration = 1000 * GIF_EVERY * step // FRAMES_PER_SECOND
        durations = [*[duration] * len(kept), 2000]
        first, *rest = [*kept, last]
        content = io.BytesIO()
        first.save(content, "GIF", save_all=True, append_images=rest, duration=durations, loop=0, optimize=False)
        if content.tell() < GIF_LIMIT:
            break
    write_atomically(file, content.getvalue())


def write_mp4(frames: Sequence[np.ndarray], file: Path) -> None:
    """Write images `(height, width, 3)` uint8 that are one frame apart.

    Raises:
        UserError: moviepy or its ffmpeg is not installed.
        OSError: ffmpeg does not work.
    """
    last = len(frames) - 1
    clip = _clip_class()(lambda t: frames[min(round(t * FRAMES_PER_SECOND), last)], duration=len(frames) / FRAMES_PER_SECOND)
    with replacing(file) as temporary:
        # The temporary file's ending says nothing about its format.
        options = {"fps": FRAMES_PER_SECOND, "codec": "libx264", "audio": False, "ffmpeg_params": ["-f", "mp4"]}
        clip.write_videofile(str(temporary), logger=None, **options)
        if not temporary.is_file() or not temporary.stat().st_size:
            raise OSError(f"ffmpeg has written nothing to {file}")


def check_mp4(folder: Path) -> None:
    """Write a film of two frames into `folder` and delete it.

    Raises:
        UserError: moviepy is missing, or its ffmpeg does not work.
    """
    with tempfile.TemporaryDirectory(dir=folder) as trial:
        try:
            write_mp4([np.zeros((32, 32, 3), np.uint8)] * 2, Path(trial, "trial.mp4"))
        except OSError as error:
            raise UserError(f"--mp4 needs a working ffmpeg: {' '.join(str(error).split())[:300]}") from error


def _clip_class() -> Any:
    try:
        from moviepy.video.VideoClip import VideoClip
    except ImportError as error:
        raise UserError("--mp4 needs moviepy: pip install 'sb3-carracing[video]'") from error
    except (OSError, RuntimeError) as error:  # it looks for ffmpeg when it is imported
        raise UserError(f"--mp4 needs a working ffmpeg: {' '.join(str(error).split())[:300]}") from error
    return VideoClip


def record(
    agent: Agent,
    folder: Path,
    seeds: Sequence[int],
    *,
    beside: Sequence[Agent] = (),
    actions: str = "deterministic",
    mp4: bool = False,
    plain: bool = False,
    renderer: Renderer | None = "stock",
    progress: bool = False,
) -> list[EpisodeResult]:
    """Film one episode of stock CarRacing-v3 on each track and return the results.

    The films are called `track_<seed>_score_<score>.gif` or `.mp4`, or `track_<seed>_<n>_agents` with others beside. Existing
    files are kept; a new one gets a number.

    Args:
        agent: the agent to film.
        folder: where the films go.
        seeds: random seeds of the tracks.
        beside: further agents, each in the same film on the same track.
        actions: see `evaluate`.
        mp4: MP4 with every frame (needs moviepy) instead of GIF with every fifth.
        plain: renderings with frame and score, without instruments, small in a GIF; of one agent only.
        renderer: see `pipeline_env`; the film looks the same with each.
        progress: see `evaluate`.

    Returns:
        The results of all agents on the first track, then on the second, and so on.

    Raises:
        UserError: an agent does not fit the environment, or MP4 is not supported. Raised before the first episode.
    """
    if plain and beside:
        raise UserError("plain films show one agent only")
    if mp4:
        _clip_class()  # before anything is made
    agents = (agent, *beside)
    for each in agents:
        check_pipeline(each.model, pipeline_env(each.pipeline, renderer=renderer), each.pipeline.wrap_vec_env)
        check_actions(each.model, actions)
    check_writable(folder, GIF_LIMIT)
    if mp4:
        check_mp4(folder)
    results: list[EpisodeResult] = []
    write, ending = (write_mp4, "mp4") if mp4 else (write_gif, "gif")
    with ProgressLine("films", len(seeds), disable=not progress).ticking() as line:
        for number, seed in enumerate(seeds, start=1):
            filmed = [_film(each, seed, actions, 1 if mp4 else GIF_EVERY, renderer) for each in agents]
            results += [result for result, _ in filmed]
            takes = [take for _, take in filmed]
            what = f"{len(agents)}_agents" if beside else f"score_{filmed[0][0].score:.0f}"
            frames = plain_frames(takes[0], SIZE if mp4 else GIF_SIZE) if plain else Frames(takes)
            write(frames, next_free(folder / f"track_{seed}_{what}.{ending}"))
            line.reach(number)
    return results


def _film(
    agent: Agent, seed: int, actions: str, every: int, renderer: Renderer | None = "stock"
) -> tuple[EpisodeResult, Take]:
    """Film one agent on one track."""
    reel = Reel(agent.name, agent.model)
    film = WrapperCall(f"{__name__}.Film", {"reel": reel, "every": every})
    make_env = pipeline_env(agent.pipeline, renderer=renderer, render_mode="rgb_array", innermost=[film])
    wrap = agent.pipeline.wrap_vec_env
    (result,) = evaluate(agent.model, make_env, [seed], actions=actions, wrap_vec_env=wrap, watch=reel)
    return result, reel.take


def pick(results: Sequence[EpisodeResult], wanted: Sequence[str]) -> list[int]:
    """Return the seeds of the worst, median or best of some episodes.

    Args:
        results: the episodes.
        wanted: "worst", "median" or "best". Of an even number of episodes, the median is the
            worse one of the two in the middle.
    """
    ranked = sorted(results, key=lambda result: result.score)
    places = {"worst": 0, "median": (len(ranked) - 1) // 2, "best": -1}
    return list(dict.fromkeys(ranked[places[one_of("pick", which, places)]].seed for which in wanted))


def split_images(observation: np.ndarray) -> list[np.ndarray]:
    """Return the images in an observation, oldest first.

    Args:
        observation: one image, a stack along a new first axis (gymnasium), or along the last one (SB3's VecFrameStack).

    Returns:
        Images `(height, width)` if gray, `(height, width, 3)` if in color.

    Raises:
        UserError: the observation holds no images.
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
    raise UserError(f"there are no images in observations of shape {shape} and type {observation.dtype}")


def preview(pipeline: Pipeline, file: Path, frames: int = 60) -> None:
    """Draw the full rendering beside the agent's observation, after some frames of random driving.

    Args:
        pipeline: what stands between the environment and the agent.
        file: image file to write.
        frames: frames to drive.

    Raises:
        UserError: the environment cannot be made, its observations are no images, or the file cannot be written.
    """
    check_output_file(file, 1_000_000)
    ending = one_of("the ending of the image file", file.suffix.lower(), (".png", ".jpg", ".pdf", ".svg"))
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
        counts = counts_of(infos[0])
        played = counts.frames if counts is not None else played + 1
    raw = np.asarray(venv.render())
    venv.close()
    if isinstance(observation, dict):
        raise UserError(f"{pipeline.env_id} has observations with several parts: {', '.join(observation)}")
    seen = split_images(np.asarray(observation)[0])

    figure = Figure(figsize=(4.5 + 2.2 * len(seen), 3.2), layout="constrained")
    axes = figure.subplots(1, 1 + len(seen), width_ratios=[1.8, *[1.0] * len(seen)], squeeze=False)[0]
    titles = [f"{pipeline.env_id}, frame {played}", *(f"step t-{age}" if age else "step t" for age in range(len(seen))[::-1])]
    for axis, image, title in zip(axes, [raw, *seen], titles, strict=True):
        axis.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_title(f"{title}\n{' x '.join(map(str, np.shape(image)))}", fontsize="small")
        axis.set_axis_off()
    content = io.BytesIO()
    figure.savefig(content, format=ending.removeprefix("."), dpi=120, bbox_inches="tight")
    write_atomically(file, content.getvalue())
