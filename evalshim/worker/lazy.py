"""Imports that wait until they are used.

While a block of `imports` is open, a package that it names is imported as a stand-in; whatever is
done with one of its names, but naming it, imports the real one. `api_imports` says of which.
"""

import ast
import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import threading
import types

_lock = threading.RLock()


@contextlib.contextmanager
def imports(packages, stars=None, no_bases=(), answers=None, answers_within=None):
    """Within the block the `packages` are imported as stand-ins.

    Args:
        packages: Top-level names, or subpackages of an upstream.
        stars: Of these, those from which upstream imports `*`, each with the names that brings.
        no_bases: Classes of theirs that a class of upstream's can do without as its base.
        answers: By their dotted names, functions to call instead of theirs for as long as their
            package is not imported; one that returns NotImplemented has theirs called.
        answers_within: The same within the block alone: what is asked later imports it.
    """
    finder = _Finder([p for p in packages if p.partition(".")[0] not in sys.modules or "." in p])
    finder.no_bases = frozenset(no_bases)
    finder.answers = {**(answers or {}), **(answers_within or {})}
    finder.names.update(stars or {})
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        finder.open = False
        finder.answers = dict(answers or {})
        finder.put_away()
        _resolve_on_access({p.partition(".")[0] for p in packages if "." in p})


def load(name):
    """The module `name`, be there a stand-in in its place."""
    module = importlib.import_module(name)
    return module.__dict__["_finder"].real(name) if isinstance(module, _StandIn) else module


def _resolve_on_access(upstreams):
    """Let who asks a package for a name of a part of upstream's get the real one."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in upstreams or isinstance(module, _StandIn):
            continue
        own = vars(module)
        names = {n: v for n, v in own.items() if isinstance(v, _Name) and v.is_of_upstream}
        if names and "__path__" in own and "__getattr__" not in own:
            for known in names:
                del own[known]
            module.__getattr__ = _getter(module, names)


def _getter(module, names):
    def get(name):
        if name not in names:
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
        value = names[name].resolved()
        setattr(module, name, value)
        return value

    return get


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, packages):
        self.packages = set(packages)
        self.names = {}
        self.no_bases = frozenset()
        self.answers = {}
        self.open = True  # whether new stand-ins are made
        self.depth = 0  # of real modules that import theirs

    def find_spec(self, name, path=None, target=None):
        package = self._package(name)
        if package is None or not self.open or self.depth:
            return None
        if package.partition(".")[0] not in self.packages:
            # Part of an upstream: its modules can be had one by one.
            real = importlib.machinery.PathFinder.find_spec(name, path)
            if real is None:
                return None
            places = real.submodule_search_locations
            spec = importlib.machinery.ModuleSpec(
                name, self, origin=real.origin, is_package=places is not None
            )
            spec.submodule_search_locations = places
            spec.has_location = True  # inspect asks every module for its file
            return spec
        if name == package and importlib.machinery.PathFinder.find_spec(name) is None:
            self.packages.discard(name)  # upstream shall see that it is not there
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def _package(self, name):
        while name:
            if name in self.packages:
                return name
            name = name.rpartition(".")[0]
        return None

    def create_module(self, spec):
        return _StandIn(spec.name, self)

    def exec_module(self, module):
        if module.__name__ in self.names:
            module.__dict__["__all__"] = self.names[module.__name__]

    def real(self, name):
        """The module itself. With it comes its whole package, but of an upstream's parts."""
        with _lock:
            package = self._package(name)
            if package is not None and name != package and "." in package:
                return self._alone(name)
            self.packages.discard(package)
            away = self.put_away(package)
            self.depth += 1
            try:
                return importlib.import_module(name)
            finally:
                self.depth -= 1
                for known, module in away.items() if self.open else ():
                    top = known.partition(".")[0]
                    if top in away or top not in sys.modules:
                        sys.modules.setdefault(known, module)

    def knows(self, path):
        """Whether what `path` returns may be known without importing it."""
        module = sys.modules.get(path.partition(".")[0])
        return path in self.answers and (module is None or isinstance(module, _StandIn))

    def put_away(self, package=None):
        """Take the stand-ins of whole packages, and those of `package`, from what is imported:
        other packages shall see none of them."""
        away = {}
        for name, module in list(sys.modules.items()):
            own = package is not None and f"{name}.".startswith(f"{package}.")
            if isinstance(module, _StandIn) and (own or self.is_whole(name)):
                away[name] = sys.modules.pop(name)
        return {name: module for name, module in away.items() if self.is_whole(name)}

    def is_whole(self, name):
        package = self._package(name)
        return package is not None and "." not in package

    def _alone(self, name):
        """A module of an upstream's, imported without those of its package."""
        known = sys.modules.get(name)
        if known is not None and not isinstance(known, _StandIn):
            return known
        parent = sys.modules[name.rpartition(".")[0]]
        spec = importlib.machinery.PathFinder.find_spec(name, parent.__path__)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            sys.modules[name] = known
            raise
        return module


class _StandIn(types.ModuleType):
    """A module that is imported when something of it is used."""

    def __init__(self, name, finder):
        super().__init__(name)
        self.__dict__["_finder"] = finder

    def __getattr__(self, name):
        finder = self.__dict__["_finder"]
        if finder.knows(f"{self.__name__}.{name}"):
            return _Name(self, name)
        if finder.open and not name.startswith("__"):
            if name.endswith(("Error", "Exception")):  # `except` takes classes alone
                return getattr(finder.real(self.__name__), name)
            return _Name(self, name)
        if finder.open and name != "__version__":
            raise AttributeError(name)  # the import system and inspect ask for such names
        return getattr(finder.real(self.__name__), name)

    def __setattr__(self, name, value):
        if name.startswith("__") or isinstance(value, types.ModuleType):
            super().__setattr__(name, value)  # by the import system
        else:
            setattr(self.__dict__["_finder"].real(self.__name__), name, value)

    def __reduce__(self):  # of the globals of a function that goes to another process
        return importlib.import_module, (self.__name__,)


class _Name:
    """A name that was imported from a stand-in, or one of its own names."""

    __slots__ = ("__weakref__", "_name", "_of", "_real")

    def __init__(self, of, name):
        object.__setattr__(self, "_of", of)
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "_real", None)

    @property
    def path(self):
        of = self._of
        return f"{of.path if isinstance(of, _Name) else of.__name__}.{self._name}"

    @property
    def finder(self):
        of = self._of
        return of.finder if isinstance(of, _Name) else of.__dict__["_finder"]

    @property
    def is_of_upstream(self):
        return not self.finder.is_whole(self.path)

    def resolved(self):
        if self._real is None:
            of = self._of
            owner = of.resolved() if isinstance(of, _Name) else self.finder.real(of.__name__)
            try:
                found = getattr(owner, self._name)
            except AttributeError:
                if not isinstance(owner, types.ModuleType):
                    raise
                found = importlib.import_module(f"{owner.__name__}.{self._name}")
            object.__setattr__(self, "_real", (found,))
        return self._real[0]

    def __getattr__(self, name):
        if self._real is None and (self.finder.open or self.finder.knows(f"{self.path}.{name}")):
            if name.startswith("__"):
                raise AttributeError(name)  # typing and inspect ask what kind of thing it is
            return _Name(self, name)
        return getattr(self.resolved(), name)

    def __mro_entries__(self, bases):
        return () if self.path in self.finder.no_bases else (self.resolved(),)

    def __setattr__(self, name, value):
        setattr(self.resolved(), name, value)

    def __call__(self, *args, **kwargs):
        if self._real is None and self.finder.knows(self.path):
            answer = self.finder.answers[self.path](*args, **kwargs)
            if answer is not NotImplemented:
                return answer
        return self.resolved()(*args, **kwargs)

    def __instancecheck__(self, instance):
        return isinstance(instance, self.resolved())

    def __subclasscheck__(self, cls):
        return issubclass(cls, self.resolved())

    def __getitem__(self, key):
        return self.resolved()[key]

    def __iter__(self):
        return iter(self.resolved())

    def __contains__(self, item):
        return item in self.resolved()

    def __or__(self, other):
        return self.resolved() | other

    def __ror__(self, other):
        return other | self.resolved()

    def __reduce__(self):
        return getattr, (self._of, self._name)

    def __repr__(self):
        return f"<{self.path}, not imported yet>"


def names(package, imported=True):
    """What `from package import *` brings, as its source says.

    Args:
        package: One of an upstream's, or a module.
        imported: Whether what it imports from elsewhere is among it.
    """
    top, *rest = package.split(".")
    place = os.path.join(importlib.util.find_spec(top).submodule_search_locations[0], *rest)
    return sorted(_names_of(place, imported))


def _names_of(place, imported):
    path = os.path.join(place, "__init__.py") if os.path.isdir(place) else f"{place}.py"
    if not os.path.exists(path):  # who imports it will say so
        return set()
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            known = {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
            if "*" in known and node.level == 1:
                own = os.path.join(os.path.dirname(path), *node.module.split("."))
                found |= _names_of(own, imported)
            found |= known if imported else set()
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
    return {name for name in found if name != "*" and not name.startswith("_")}
