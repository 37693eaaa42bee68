"""Names of classes that a later process can find again."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

from litseq.errors import CheckpointError


def class_path_of(cls: type) -> str:
    """The dotted path under which another process can import a class.

    A class is named by the outermost package that offers it (`litseq.models.EncoderDecoder`), so that its file can
    move. A class of a script is named by the script's file: `__main__` is something else in every process.

    Args:
        cls: The class.

    Returns:
        Module and qualified name.
    """
    module = cls.__module__
    if module == "__main__":
        return f"{_main_name()}.{cls.__qualname__}"
    parts = module.split(".")
    for end in range(1, len(parts)):
        package = ".".join(parts[:end])
        if getattr(sys.modules.get(package), cls.__qualname__, None) is cls:
            return f"{package}.{cls.__qualname__}"
    return f"{module}.{cls.__qualname__}"


def resolve_class(class_path: str) -> type:
    """Import the class a path names.

    Args:
        class_path: What `class_path_of` gave.

    Returns:
        The class.

    Raises:
        CheckpointError: The class cannot be imported here.
    """
    if "<locals>" in class_path:
        raise CheckpointError(
            f"class {class_path} was defined inside a function, expected an importable one: move it to the top level of"
            " a module and train again, or load it with its own load_from_checkpoint"
        )
    module_name, _, name = class_path.rpartition(".")
    if module_name == _main_name() and isinstance(found := getattr(sys.modules.get("__main__"), name, None), type):
        return found
    module = _import_longest(module_name, class_path)
    found = module
    for part in class_path[len(module.__name__) + 1 :].split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type):
        raise CheckpointError(
            f"module {module.__name__} ({getattr(module, '__file__', 'built in')}) has no class"
            f" {class_path[len(module.__name__) + 1 :]}, expected the one the checkpoint was trained with: put the"
            " directory of that version on PYTHONPATH"
        )
    return found


def _import_longest(module_name: str, class_path: str) -> ModuleType:
    """Import a module, or the one around a nested class."""
    name = module_name
    while name:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            # A missing dependency of the user's module is their news, not a reason to look further up.
            if error.name is not None and not (name == error.name or name.startswith(f"{error.name}.")):
                raise CheckpointError(
                    f"class {class_path} cannot be imported: {name} needs the module {error.name}, which is missing"
                ) from error
        except Exception as error:
            raise CheckpointError(
                f"class {class_path} cannot be imported: importing {name} raised {type(error).__name__}: {error}"
            ) from error
        name = name.rpartition(".")[0]
    raise CheckpointError(
        f"class {class_path} cannot be imported: no module {module_name} here; put the directory that holds"
        f" {module_name.partition('.')[0]} on PYTHONPATH (PYTHONPATH=DIRECTORY litseq ...)"
    )


def _main_name() -> str:
    """The name under which the running script could be imported."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else "__main__"
