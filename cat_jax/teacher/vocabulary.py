"""Teacher and store must mean the same by a token id."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from cat_jax.data.fingerprint import Known, in_short, is_known_as
from cat_jax.data.manifest import FeatureInfo
from cat_jax.errors import UserError

logger = logging.getLogger(__name__)


def check_teacher_vocabularies(
    teacher: str, vocabularies: Mapping[str, Known], vocab_size: int, features: Mapping[str, FeatureInfo], store: str
) -> None:
    """Refuses a teacher of other vocabularies than the store's; warns where the teacher's are not known.

    Args:
      teacher: the model, for messages.
      vocabularies: fingerprints by feature, of the data that the teacher was trained on.
      vocab_size: ids that the teacher knows.
      features: of the store.
      store: the store, for messages.

    Raises:
      UserError: naming teacher and store.
    """
    mend = "choose a teacher of the store's vocabulary, or prepare the task with the teacher's"
    other = f"{mend}; or, for cat_xent, carry its bits over by text with `cat-jax teach --align` (docs/teachers.md)"
    for name, feature in features.items():
        known = vocabularies.get(name)
        if known is None:
            logger.warning("%s does not say on which vocabulary of %s it was trained", teacher, name)
        elif not is_known_as(known, feature.vocabulary):
            raise UserError(
                f"the teacher {teacher} was trained on the {name} vocabulary {in_short(known)}, "
                f"{store} is over {feature.vocabulary[:12]}",
                other,
            )
        if feature.vocab_size > vocab_size:
            raise UserError(
                f"the {name} of {store} have {feature.vocab_size} ids, the teacher {teacher} knows {vocab_size}", mend
            )
