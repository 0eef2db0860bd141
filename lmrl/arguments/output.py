"""Arguments of the folder that a recipe writes into."""

from dataclasses import dataclass

from lmrl.settings import Settings
from lmrl.utils import option


@dataclass
class OutputArguments(Settings):
    """The treatment of results of an earlier run."""

    _argument_group_name = "Output"

    overwrite: bool = option(
        False,
        "Replace the results of an earlier run. Without it a folder that has some is refused, unless the run goes on "
        "from a checkpoint. Files that lmrl does not write stay.",
    )
