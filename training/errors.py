"""What goes wrong between recordings and a release."""

from contract.errors import EarshotError


class DataError(EarshotError):
    """Recordings that cannot be trained on or judged with: put the named ones right."""


class DestinationError(EarshotError):
    """A place that must not, or cannot, be written to: choose another."""


class TrainingError(EarshotError):
    """A training that gave no usable model: change its settings or its data."""


class RecipeError(EarshotError):
    """A recipe that is not there or not one: choose or write another."""


class EnrolmentError(EarshotError):
    """A broker's secrets, or a node's, that cannot be made or changed: nothing was."""
