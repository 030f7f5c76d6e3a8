"""existing-dictionary: a dictionary that exists already, judged and explained like one that was fitted here."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from harness import Config, DictionaryLearner, Registration, hookimpl


class ExistingDictionaryConfig(Config):
    """Settings of existing-dictionary."""

    path: str = Field(min_length=1)
    """Folder of a dictionary: the harness's own, SAELens' or dictionary_learning's. It must have been fitted on this
    adapter's components, in their order; where the folder names its columns, that is checked. Copied: the study holds
    what it judged."""

    def reads(self) -> tuple[str, ...]:
        """The dictionary: another one in the same folder is judged anew."""
        return (self.path,)


@hookimpl
def harness_dictionaries() -> Sequence[Registration[DictionaryLearner]]:
    """Offer existing-dictionary."""
    return [
        Registration(
            name="existing-dictionary",
            config=ExistingDictionaryConfig,
            load="harness_plugins.dictionaries.existing_dictionary.learner:ExistingDictionary",
            summary="a dictionary from a folder (SAELens, dictionary_learning or the harness's own)",
            needs=("adapter-activations",),
            fits=False,
        )
    ]
