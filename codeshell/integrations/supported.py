"""What codeshell uses of Hugging Face transformers; an error that names the version if it is not a supported one."""

from __future__ import annotations

import warnings

from codeshell.versions import RANGES, newer_than_tested, require

try:
    import transformers
except ImportError as error:
    raise ImportError(
        "codeshell.patch and codeshell.integrations.transformers need transformers "
        f"{RANGES['transformers']}: pip install 'transformers>=5,<6' ({error})"
    ) from error
else:
    require("transformers", transformers.__version__)  # before the names below, which older ones do not have
    if newer_than_tested("transformers", transformers.__version__):
        warnings.warn(
            f"codeshell was tested with transformers up to {RANGES['transformers'].tested}, and "
            f"{transformers.__version__} is installed; compare a patched model with the original before you rely on it",
            stacklevel=2,
        )
try:
    from transformers import AttentionInterface as AttentionInterface
    from transformers import AttentionMaskInterface as AttentionMaskInterface
    from transformers import PreTrainedModel as PreTrainedModel
    from transformers import masking_utils as masking_utils
    from transformers.cache_utils import Cache as Cache
    from transformers.cache_utils import DynamicLayer as DynamicLayer
    from transformers.integrations.sdpa_attention import sdpa_attention_forward as sdpa_attention_forward
    from transformers.utils.import_utils import is_tracing as is_tracing
except ImportError as error:
    raise ImportError(
        f"codeshell.patch cannot use the installed transformers {transformers.__version__}: {error}"
    ) from error
