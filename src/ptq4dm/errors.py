"""Errors a user can cause. Each message says what failed, the value received, what is accepted and the mend."""


class PTQ4DMError(Exception):
    """Base of every error that ptq4dm raises on purpose. The command line prints it as one line, exit code 2."""


class ModelError(PTQ4DMError):
    """The model cannot be found, read or used."""


class ArtifactError(PTQ4DMError):
    """A saved product (calibration set, quantized model, results) is damaged, foreign or of another format."""


class RecipeError(PTQ4DMError):
    """A recipe, a time-step law, a metric or another setting is not accepted."""


class CalibrationError(PTQ4DMError):
    """The calibration data cannot be used: none, not finite, or of another model."""


class BackendError(PTQ4DMError):
    """A backend is missing, cannot express the network, or is not exact on this processor."""


class MissingDependencyError(PTQ4DMError):
    """An optional dependency is not installed; the message has the pip line."""


class EvaluationError(PTQ4DMError):
    """An evaluation cannot be made: too few pictures, none finite, or a setting that is not accepted."""


class BackendWarning(UserWarning):
    """An engine that could have run the network faster was passed over, with the reason."""


class SimulatedWarning(UserWarning):
    """A network was loaded on the simulated backend: the exact numbers, but not fast."""


class SavingWarning(UserWarning):
    """What is being quantized can be used, but not saved so that it is loaded again, with the reason."""


class TimeAxisWarning(UserWarning):
    """A quantized network is used over time-steps much different from those that it was calibrated on."""


def first_line(error: Exception) -> str:
    """What an error of someone else's code says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
