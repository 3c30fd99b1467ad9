"""Tables of the READMEs, made from the code that they describe."""

from pydantic import BaseModel
from pydantic_core import PydanticUndefined


def options(model: type[BaseModel], parent: type[BaseModel] | None = None, dash: str = "") -> str:
    """The fields of a model that its parent lacks, or has with another default."""
    rows = [f"| {'option' if dash else 'key'} | default | meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        inherited = parent.model_fields.get(name) if parent else None
        if inherited is None or inherited.default != field.default:
            shown = dash + (name.replace("_", "-") if dash else name)
            rows.append(f"| `{shown}` | {_default(field.default)} | {_cell(field.description)} |")
    return "\n".join(rows)


def _default(value: object) -> str:
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel) or value is None or value in ("", ()):
        return ""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")
