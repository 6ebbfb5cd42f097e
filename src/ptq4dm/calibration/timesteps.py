"""Laws that draw the time-step of every calibration sample, as functions that users can write themselves.

A law takes (samples, T, rng) and returns `samples` whole time-steps in [0, T - 1]; T - 1 is the noisiest.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from ptq4dm.errors import RecipeError

TimestepLaw = Callable[[int, int, np.random.Generator], np.ndarray]
OVERFLOWS: Final = ("clip", "resample")
RESAMPLE_ROUNDS: Final = 1000
LARGEST: Final = float(np.finfo(np.float64).max)
FARTHEST: Final = 2.0**62


def ndtc(location: float = 0.4, scale: float = 0.4, shape: float = 0.0, overflow: str = "clip") -> TimestepLaw:
    """Normally Distributed Time-step Calibration: t = round(skew normal(ξ = location·T, ω = scale·T, α = shape)).

    PTQ4DM (Shang et al., CVPR 2023, arXiv 2211.15736), section 3.3; the defaults are those of its released script.
    overflow: what becomes of a t outside [0, T - 1]: `clip` moves it to the nearer end (as the paper; with the
    defaults 16 % of the samples land on t = 0 and 7 % on T - 1), `resample` draws it again (the truncated law).
    Raises RecipeError: location outside [0, 1], scale not above 0, shape not finite, another overflow.
    """
    location, scale, shape = finite("location", location), finite("scale", scale), finite("shape", shape)
    if not 0 <= location <= 1:
        raise RecipeError(f"ndtc: location = {location:g} should be a fraction of T, from 0 to 1 (paper: at most 0.5)")
    if scale <= 0:
        raise RecipeError(f"ndtc: scale = {scale:g} should be a fraction of T above 0")
    if overflow not in OVERFLOWS:
        raise RecipeError(f"ndtc: overflow = {overflow!r}; accepted are {', '.join(OVERFLOWS)}")

    def law(samples: int, num_train_timesteps: int, rng: np.random.Generator) -> np.ndarray:
        last = num_train_timesteps - 1
        drawn = skew_normal(samples, location, scale, shape, num_train_timesteps, rng)
        if overflow == "clip":
            return drawn.clip(0, last)
        for _ in range(RESAMPLE_ROUNDS):
            outside = (drawn < 0) | (drawn > last)
            if not outside.any():
                return drawn
            drawn[outside] = skew_normal(int(outside.sum()), location, scale, shape, num_train_timesteps, rng)
        raise RecipeError(
            f"ndtc: location = {location:g}, scale = {scale:g}, shape = {shape:g} puts almost no time-step inside "
            f"[0, {last}]: move the location inwards, or use overflow = 'clip'"
        )

    return law


def finite(name: str, value: object) -> float:
    """An option of ndtc as a float. Raises RecipeError unless it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        raise RecipeError(f"ndtc: {name} = {value!r} should be a finite number")
    return float(value)


def skew_normal(
    samples: int, location: float, scale: float, shape: float, num_train_timesteps: int, rng: np.random.Generator
) -> np.ndarray:
    """Whole numbers nearest to ξ + ω(δ|u₀| + √(1 - δ²)u₁), δ = α / √(1 + α²), u₀, u₁ ~ N(0, 1); int64 (samples,),
    those beyond ±2**62 moved there.

    Azzalini, "A Class of Distributions which Includes the Normal Ones", Scand. J. Statist. 12 (1985).
    """
    delta = shape / np.hypot(1.0, shape)
    u_0, u_1 = rng.standard_normal((2, samples))
    z = delta * np.abs(u_0) + np.sqrt(1 - delta**2) * u_1
    with np.errstate(over="ignore"):  # infinity is moved to the end like any number beyond it
        t = (location + scale * z) * num_train_timesteps
    return np.rint(t).clip(-FARTHEST, FARTHEST).astype(np.int64)


def uniform() -> TimestepLaw:
    """Every time-step 0 to T - 1 is as likely as any other."""
    return lambda samples, num_train_timesteps, rng: rng.integers(0, num_train_timesteps, samples)


def single(t: int | float = 0) -> TimestepLaw:
    """One time-step for all samples: a whole number t is the time-step, a fraction (a float) means round(t·(T - 1)).

    Raises RecipeError, a whole t outside [0, T - 1] when it is drawn, a fraction outside [0, 1] at once.
    """
    if isinstance(t, bool) or not isinstance(t, int | float):
        raise RecipeError(f"single: t = {t!r} should be a whole time-step or a fraction of T such as 0.5")
    if isinstance(t, float) and not 0 <= t <= 1:
        raise RecipeError(f"single: t = {t} should be a fraction from 0.0 to 1.0; for a time-step give a whole number")
    refuse_huge(t)

    def law(samples: int, num_train_timesteps: int, rng: np.random.Generator) -> np.ndarray:
        timestep = t if isinstance(t, int) else round(t * (num_train_timesteps - 1))
        return np.full(samples, timestep, dtype=np.int64)

    return law


def explicit(timesteps: Sequence[int] = ()) -> TimestepLaw:
    """The listed whole time-steps in their order, from the start again when there are more samples than entries.

    Raises RecipeError: none, or not whole; out of [0, T - 1] when drawn.
    """
    if isinstance(timesteps, str) or not isinstance(timesteps, Sequence | np.ndarray) or len(timesteps) == 0:
        raise RecipeError(f"explicit: timesteps = {timesteps!r} should be a list of time-steps such as [0, 500, 999]")
    for timestep in timesteps:
        if isinstance(timestep, bool) or not isinstance(timestep, int | np.integer):
            raise RecipeError(f"explicit: {timestep!r} in timesteps should be a whole number")
        refuse_huge(timestep)
    listed = np.array(timesteps, dtype=np.int64)
    return lambda samples, num_train_timesteps, rng: np.resize(listed, samples)


def refuse_huge(timestep: float) -> None:
    """Raises RecipeError: a time-step that int64 cannot hold; others are held against T when they are drawn."""
    if abs(timestep) >= 2**63:
        raise RecipeError(f"time-step {timestep} is out of range: accepted are 0 to T - 1")


def weighted(timesteps: Sequence[int] = (), weights: Sequence[float] = ()) -> TimestepLaw:
    """One of the listed whole time-steps, each as likely as its weight says.

    Raises RecipeError: as `explicit`; or the weights are not as many, negative, not finite, or all 0.
    """
    listed = explicit(timesteps)(len(timesteps), 0, np.random.default_rng(0))
    try:
        shares = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):  # words, lists of several lengths, numbers beyond float64
        shares = np.empty(0)
    if shares.shape != listed.shape or not (np.isfinite(shares) & (shares >= 0)).all() or not shares.sum() > 0:
        raise RecipeError(
            f"weighted: weights = {weights!r:.80} should be {len(listed)} numbers, one a time-step, at least one of "
            "them above 0 and none below"
        )
    return lambda samples, num_train_timesteps, rng: rng.choice(listed, samples, p=shares / shares.sum())


LAWS: Final[dict[str, Callable[..., TimestepLaw]]] = {
    "ndtc": ndtc,
    "uniform": uniform,
    "single": single,
    "explicit": explicit,
    "weighted": weighted,
}
AUTO: Final = "auto"
"""In a recipe: the law is `weighted`, its weights measured on the model (`calibration.step_weights`)."""


def resolve_law(law: str | TimestepLaw, options: Mapping[str, Any] | None = None) -> TimestepLaw:
    """The law called `law` with its options, or the callable itself (which takes none). Raises RecipeError."""
    options = dict(options or {})
    if not isinstance(law, str):
        if not callable(law):
            raise RecipeError(f"time-steps {law!r}: accepted are {', '.join(LAWS)} or a function (samples, T, rng)")
        if options:
            raise RecipeError(f"options {sorted(options)} for a time-step law of your own: put them into the function")
        return law
    if law == AUTO:
        raise RecipeError(
            f"time-steps {AUTO!r} are measured by quantize, on an unconditional model; elsewhere no law has that name: "
            f"accepted are {', '.join(LAWS)}, or a function of your own"
        )
    if law not in LAWS:
        raise RecipeError(
            f"unknown time-step law {law!r}: accepted are {', '.join(LAWS)}, {AUTO}, or a function of your own"
        )
    known = inspect.signature(LAWS[law]).parameters
    for name in options:
        if name not in known:
            accepted = ", ".join(known) or "none"
            raise RecipeError(f"unknown option {name!r} of the time-step law {law}: accepted are {accepted}")
    return LAWS[law](**options)


def draw_timesteps(law: TimestepLaw, samples: int, num_train_timesteps: int, rng: np.random.Generator) -> np.ndarray:
    """Draw int64 (samples,) and check what the law gave. Raises RecipeError: zero samples, not whole, out of range."""
    if samples < 1:
        raise RecipeError(f"samples = {samples} should be at least 1")
    drawn = np.asarray(law(samples, num_train_timesteps, rng))
    if drawn.shape != (samples,) or not np.issubdtype(drawn.dtype, np.integer):
        raise RecipeError(
            f"the time-step law gave {drawn.dtype} of shape {drawn.shape}: it should give {samples} whole numbers"
        )
    outside = drawn[(drawn < 0) | (drawn >= num_train_timesteps)]
    if len(outside):
        raise RecipeError(f"time-step {outside[0]} is out of range: accepted are 0 to {num_train_timesteps - 1}")
    return drawn.astype(np.int64)
