"""What a stage's code imports, declares as inputs and reads from params.yaml, to be held against dvc.yaml."""

import ast
import operator
from collections.abc import Iterator
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

from common import params

from ruamel.yaml import YAML

SRC = Path("src")


class Pipeline:
    """dvc.yaml and params.yaml of the working directory."""

    def __init__(self) -> None:
        self.params = params.load()
        text = Path("dvc.yaml").read_text("utf-8").replace("${model.architecture}", self.params.model.architecture)
        self.stages = YAML(typ="safe").load(text)["stages"]

    def declared(self, stage: str, kind: str) -> list[str]:
        """Paths or keys under deps, outs, metrics or params of a stage, templates filled in."""
        entries = self.stages[stage].get(kind, [])
        return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]

    def script(self, stage: str) -> Path:
        return Path(self.stages[stage]["cmd"].split()[-1])

    def modules(self, stage: str) -> set[str]:
        """The files under src/ that a stage loads."""
        used = all_modules(self.script(stage))
        if SRC / "architectures/__init__.py" in used:  # it imports the chosen one by name
            used |= all_modules(SRC / f"architectures/{self.params.model.architecture}.py")
        return {path.as_posix() for path in used}

    def value(self, key: str) -> Any:
        return operator.attrgetter(key)(self.params) if key else self.params

    def is_section(self, key: str | None) -> bool:
        return key is not None and isinstance(self.value(key), params.Section)

    def leaves(self, key: str = "") -> set[str]:
        """The keys of all values below a section, "" for all sections."""
        if not self.is_section(key):
            return {key}
        names = type(self.value(key)).model_fields
        return set().union(*(self.leaves(f"{key}.{name}".lstrip(".")) for name in names))

    def parameters(self, path: Path) -> set[str]:
        """The keys that a script takes from `params.load()`, through the names that it gives to sections.

        A section as text, which stands for it in keys and messages, reads none of its values.
        """
        bound = {"params.load()": ""}  # expression: key of the section that it gives, "" for all

        def key_of(node: ast.AST) -> str | None:
            if isinstance(node, ast.Attribute) and self.is_section(outer := key_of(node.value)):
                return f"{outer}.{node.attr}".lstrip(".")
            return bound.get(ast.unparse(node))

        read: set[str] = set()

        def visit(node: ast.AST) -> None:
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=value) if self.is_section(key_of(value)):
                    bound[name] = str(key_of(value))
                case ast.Call(func=ast.Name(id="str")):
                    pass
                case ast.expr() if (key := key_of(node)) is not None:
                    read.update(self.leaves(key))
                case _:
                    for child in ast.iter_child_nodes(node):
                        visit(child)

        visit(ast.parse(path.read_text("utf-8")))
        return read

    def problems(self) -> Iterator[str]:
        """Each difference between dvc.yaml and what the stages do, in a sentence."""
        read_by_any: set[str] = set()
        for stage in self.stages:
            modules, parameters = self.modules(stage), self.parameters(self.script(stage))
            read_by_any |= parameters
            listed = {*self.declared(stage, "deps")}
            deps = {dep for dep in listed if dep.startswith("src/") and dep.endswith(".py")}
            inputs = declared_inputs(self.script(stage))
            keys = set().union(*(self.leaves(key) for key in self.declared(stage, "params")))
            for words, names in {
                f"{stage} imports {{}}, which dvc.yaml does not list": modules - deps,
                f"dvc.yaml lists {{}} for {stage}, which does not import it": deps - modules,
                f"{stage} declares the input {{}}, which dvc.yaml does not list": inputs - listed,
                f"dvc.yaml lists {{}} for {stage}, which does not declare it": listed - deps - inputs,
                f"{stage} reads the parameter {{}}, which dvc.yaml does not list": parameters - keys,
                f"dvc.yaml lists the parameter {{}} for {stage}, which does not read it": keys - parameters,
            }.items():
                yield from map(words.format, sorted(names))
        for key in sorted(self.leaves() - read_by_any):
            yield f"nobody reads the parameter {key}"


def declared_inputs(path: Path) -> set[str]:
    """The arguments of `inputs.declare` in a script, which may read no other file."""
    calls = (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call))
    arguments = [call.args for call in calls if ast.unparse(call.func) == "inputs.declare"]
    return {ast.literal_eval(argument) for found in arguments for argument in found}


def all_modules(path: Path) -> set[Path]:
    """The file, and all under src/ that it imports, wherever in it, directly or not."""
    finder = ModuleFinder([str(SRC)])  # it finds no library, and so looks into none
    finder.run_script(str(path))
    files = [Path(module.__file__) for module in finder.modules.values() if module.__file__]  # type: ignore[attr-defined]
    return {file.resolve().relative_to(Path.cwd()) for file in files}
