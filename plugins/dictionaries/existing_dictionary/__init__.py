"""Plugin `existing-dictionary`: a dictionary from elsewhere, scored and explained like one that was fitted here."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from harness import Config, DictionaryLearner, Registration, hookimpl


class ExistingDictionaryConfig(Config):
    """Settings of existing-dictionary."""

    path: str = Field(min_length=1)
    """Folder of a dictionary: the harness's own, SAELens' (3 to 6), sparsify's or dictionary_learning's. It must have
    been fitted on this adapter's components, in their order; where the folder names its columns, that is checked. It is
    copied into the run."""

    def reads(self) -> tuple[str, ...]:
        """The dictionary's folder: where its files change, the steps that use it run again."""
        return (self.path,)


@hookimpl
def harness_dictionaries() -> Sequence[Registration[DictionaryLearner]]:
    """Offer existing-dictionary."""
    return [
        Registration(
            name="existing-dictionary",
            config=ExistingDictionaryConfig,
            load="harness_plugins.dictionaries.existing_dictionary.learner:ExistingDictionary",
            summary="a dictionary from a folder (SAELens, sparsify, dictionary_learning or the harness's own)",
            needs=("adapter-activations",),
            fits=False,
            seeded=False,
        )
    ]
