"""Computes the resources that a task call locks, from templates over its arguments or from functions of them.

Invariants:
1. The fields of a template are checked at the definition of the task, not at its first run.
2. Positional arguments, keywords and defaults give the same resource. Equal values give the same resource too
   (`redlock.celery.canonical_text`).
"""

from __future__ import annotations

import contextlib
import inspect
import re
import string
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from redlock import _validation
from redlock.celery import canonical_text
from redlock.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from redlock._core.commands import Names

OneKey: TypeAlias = "str | Callable[..., str | Sequence[str]]"
KeySpec: TypeAlias = "OneKey | Sequence[OneKey]"


_FORMATTER = canonical_text.Formatter()
_TEXT_AS_THEY_ARE = {str, int}
_FIELD = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*|\[[^\]]+\])*")


class Key:
    """Computes the resource of a call.

    Args:
        spec: A template or a function.
        function: The task's function.

    Raises:
        ConfigurationError: The template is malformed, or has a field that is no argument of the function.
    """

    def __init__(self, spec: OneKey, function: Callable[..., Any]) -> None:
        self._spec = spec
        self._name = getattr(function, "__qualname__", repr(function))
        self._signature = inspect.signature(function)
        parameters = self._signature.parameters.values()
        plain = all(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in parameters)
        self._plain = tuple(self._signature.parameters) if plain else None
        self._bare: tuple[str, ...] | None = None
        """The fields, if each is a plain argument: no attribute, no index, no conversion, no format. Else None."""
        if isinstance(spec, str):
            self._check(spec)
            self._bare = _bare(spec)
        elif not callable(spec):
            raise ConfigurationError(
                f"the key of {self._name} is {spec!r}; it must be a template such as 'account:{{id}}', or a function"
            )
        else:
            self._check_function(spec)

    def of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Names:
        """The resources that this call locks; a template makes one, a function makes one or several.

        Raises:
            TypeError: The arguments do not fit the function.
            ConfigurationError: The result is no valid resource name, and no list of such names.
        """
        if not isinstance(self._spec, str):
            return self._from_function(self._signature.bind(*args, **kwargs))
        values = self._values(args, kwargs)
        try:
            name = self._filled(self._spec, values)
        except (LookupError, AttributeError, TypeError, ValueError, ArithmeticError, RecursionError) as exc:
            reason = str(exc) if isinstance(exc, canonical_text.UnstableText) else repr(exc)
            raise ConfigurationError(
                f"the key {self._spec!r} of {self._name} can't be made from this call: {reason}"
            ) from None
        return self._named(name)

    def _named(self, made: object) -> Names:
        try:
            return _validation.resources(made)
        except ConfigurationError as error:
            raise ConfigurationError(f"the key of {self._name}: {error}") from None

    def _filled(self, template: str, values: dict[str, Any]) -> str:
        if self._bare is not None:
            for field in self._bare:
                if type(values[field]) not in _TEXT_AS_THEY_ARE:
                    values[field] = canonical_text.text(values[field])
            return template.format(**values)
        return _FORMATTER.vformat(template, (), values)

    def _values(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments by name, with the defaults."""
        if self._plain is not None and not kwargs and len(args) == len(self._plain):
            # Covers most calls of most tasks. Binding would be the largest part of the cost of a key.
            return dict(zip(self._plain, args, strict=True))
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        values = dict(bound.arguments)
        for parameter in self._signature.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                # A keyword can have the name of a positional-only argument. The template means the argument.
                values = {**values.pop(parameter.name), **values}
        return values

    def _from_function(self, bound: inspect.BoundArguments) -> Names:
        """The resources from the key's function."""
        names = self._named(self._call_function(bound))
        for name in names:
            if canonical_text.has_address(name, bound.arguments.values()):
                raise ConfigurationError(
                    f"the key function of {self._name} made {name!r:.200}, which has an object's address in it and "
                    "differs in every process; use an attribute that identifies the object"
                )
        return names

    def _call_function(self, bound: inspect.BoundArguments) -> object:
        """Call the key's function with the defaults if its signature accepts the defaults, else without defaults."""
        assert callable(self._spec)
        args, kwargs = bound.args, bound.kwargs
        bound.apply_defaults()
        try:
            inspect.signature(self._spec).bind(*bound.args, **bound.kwargs)
        except (TypeError, ValueError):
            return self._spec(*args, **kwargs)
        return self._spec(*bound.args, **bound.kwargs)

    def _check_function(self, spec: Callable[..., str | Sequence[str]]) -> None:
        if inspect.iscoroutinefunction(spec):
            raise ConfigurationError(
                f"the key function of {self._name} is a coroutine function, which no event loop would run; use `def`"
            )
        try:
            accepted = inspect.signature(spec)
        except (TypeError, ValueError):
            return  # a function in C can have no signature
        if not _accepts_a_call(accepted, self._signature):
            raise ConfigurationError(
                f"the key function of {self._name} takes {accepted}; it is called with the arguments of the task, "
                f"so it must take {self._signature.replace(return_annotation=inspect.Signature.empty)}"
            )

    def _check(self, template: str) -> None:
        if not template:
            self._named(template)
        parameters = self._signature.parameters.values()
        named = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
        takes_any = len(named) < len(parameters)
        for field in self._fields(template):
            root = re.split(r"[.\[]", field, maxsplit=1)[0]
            if not _FIELD.fullmatch(field) or (
                root not in named and (not takes_any or root in self._signature.parameters)
            ):
                raise ConfigurationError(
                    f"the key {template!r} of {self._name} has the field {{{field}}}, which is no argument of it; "
                    f"its arguments are {', '.join(named) or 'none'}"
                )

        literal = "".join(text for text, *_ in string.Formatter().parse(template))
        if literal:
            # A fault in the literal text is a fault of every key, so the error comes at import.
            self._named(literal)

    def _fields(self, template: str) -> list[str]:
        found: list[str] = []
        try:
            for _, field, spec, conversion in string.Formatter().parse(template):
                if conversion not in {None, "", "r", "s", "a"}:
                    raise ValueError(f"there is no conversion !{conversion}")
                if field is not None:
                    found += [field, *self._fields(spec or "")]
        except ValueError as exc:
            raise ConfigurationError(f"the key {template!r} of {self._name} is no template: {exc}") from None
        return found


def _bare(template: str) -> tuple[str, ...] | None:
    found = []
    for _, field, spec, conversion in string.Formatter().parse(template):
        if field is not None:
            if spec or conversion or not field.isidentifier():
                return None
            found.append(field)
    return tuple(found)


def _accepts_a_call(key: inspect.Signature, task: inspect.Signature) -> bool:
    """Whether a key's function accepts the arguments of any call of its task."""
    parameters = list(task.parameters.values())
    if any(parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD} for parameter in parameters):
        return True  # such a task has no longest call
    positional = [parameter for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY]
    keywords = parameters[len(positional) :]
    for count in range(sum(map(_is_required, positional)), len(positional) + 1):
        # A call that leaves out an argument gives those behind the gap by keyword.
        behind = [parameter for parameter in positional[count + 1 :] if parameter.kind is not parameter.POSITIONAL_ONLY]
        wanted = [each for each in behind + keywords if _is_required(each) or each.name in key.parameters]
        for given in (keywords, wanted, filter(_is_required, keywords)):
            with contextlib.suppress(TypeError):
                key.bind(*[None] * count, **dict.fromkeys(parameter.name for parameter in given))
                return True
    return False


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty


def keys(spec: KeySpec, function: Callable[..., Any]) -> list[Key]:
    """The keys of a task, of which a call locks all or none.

    Raises:
        ConfigurationError: A key is invalid, or the list is empty.
    """
    specs = [spec] if isinstance(spec, str | bytes) or not isinstance(spec, Sequence) else spec
    if not specs:
        raise ConfigurationError("the list of keys is empty; give at least one, such as 'account:{id}'")
    return [Key(each, function) for each in specs]
