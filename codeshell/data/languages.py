"""The place where the table of languages was until it moved to `codeshell.documents`: old scripts still import it."""

from __future__ import annotations

from codeshell.documents.languages import by_content as by_content
from codeshell.documents.languages import by_name as by_name
