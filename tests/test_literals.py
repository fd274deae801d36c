"""What upstream evaluates is read: as `eval` on honest cells, and nothing runs on others."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evalshim.worker import literals

# The worker has no types.
value: Callable[[Any], Any] = literals.value
HONEST = [
    "[1, 'a']", "3/4", "-2", "{'a': 1}", "1e5", "(1, 2)", "[]", "()", "{}", "''", "'a' 'b'", "b'a'",
    "1", "01.50", "1_000", "0x1f", "0b101", "1j", "2 - 3j", "None", "True", "...", "  1", "\t[1]",
    "[1]\n", "1 # one", "'\\u72d7'", "'\u72d7'", "{1, 2}", "[[1, [2]], {'a': (3,)}]", "1,", "+1",
    "--1", "- -1", "-True", "1+2*3", "(1+2)*3", "7//2", "7%4", "2**10", "2**-1", "1.5e3*2", "10/4",
    "['data/a.png', \"b's.png\"]", "'''a\nb'''", "r'\\d'", "1e400", "2**1024", "[\n1,\n2\n]",
]  # fmt: skip
NO_VALUES = [
    "x", "A", "nan", "inf", "cat", "\u72d7", "_", "print_", "a+1", "[a]", "(a, 1)", "{a: 1}", "-a",
    "1/0", "0**-1", "1%0", "{[]: 1}", "{[1]}", "1/'a'", "-'a'", "1+[]", "", " ", "1 2",
    "a b", "01", "'a", "[1", "1]", "1;2", "a = 1", "import os", "del x", "pass", "#", "\0", "1\0",
    "what is this?", "1\n2", "\n 1 +", "5'", "return 1", "\ud800",
]  # fmt: skip
# `{0}` is a file that must not come to be.
HOSTILE = [
    "__import__('os').system('touch {0}')",
    "__import__('pathlib').Path('{0}').touch()",
    "open('{0}', 'w')",
    "exec(\"open('{0}', 'w')\")",
    "eval(\"open('{0}', 'w')\")",
    "compile('1', '', 'eval')",
    "[__import__('os').system('touch {0}')]",
    "(open('{0}', 'w'), 1)",
    "{{'a': open('{0}', 'w')}}",
    "{{open('{0}', 'w'): 1}}",
    "{{open('{0}', 'w')}}",
    "-open('{0}', 'w')",
    "1 + open('{0}', 'w')",
    "lambda: open('{0}', 'w')",
    "(lambda: open('{0}', 'w'))()",
    'f\'{{open("{0}", "w")}}\'',
    "f'a'",
    "[open('{0}', 'w') for _ in (1,)]",
    "{{open('{0}', 'w') for _ in (1,)}}",
    "{{1: open('{0}', 'w') for _ in (1,)}}",
    "list(open('{0}', 'w') for _ in (1,))",
    "open('{0}', 'w') if 1 else 2",
    "1 if open('{0}', 'w') else 2",
    "0 or open('{0}', 'w')",
    "1 < open('{0}', 'w')",
    "not open('{0}', 'w')",
    "~1",
    "(x := open('{0}', 'w'))",
    "[*open('{0}', 'w')]",
    "{{**open('{0}', 'w')}}",
    "(yield open('{0}', 'w'))",
    "(await open('{0}', 'w'))",
    "().__class__.__base__.__subclasses__()",
    "'a'.join",
    "[1][0]",
    "'{{0.__class__}}'.format(1)",
    "'%s' % open('{0}', 'w')",
    "os.system('touch {0}')",
    "1;open('{0}', 'w')",
    "1\nopen('{0}', 'w')",
    "'a' * 10**9",
    "10**9 * 'a'",
    "[0] * 10**9",
    "'a' + 'b'",
    "1 << 10**10",
    "1 @ 2",
    "9**9**9",
    "9**9**9**9",
    "2**10**10",
    "-9**9**9",
    "(2**1000)**1000",
    "((2**63)**1024)**1024",
    "10.0**10000",
    "0.5**-10000",
    "(1+1j)**100000",
]


def _outcome(evaluate: Any, text: str) -> tuple[Any, ...]:
    try:
        found = evaluate(text)
    except Exception as error:
        return (type(error),)
    return type(found), found if isinstance(found, int) else repr(found)


@pytest.fixture
def soon() -> Iterator[None]:
    begun = time.process_time()
    yield
    assert time.process_time() - begun < 3


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
class TestHonest:
    @pytest.mark.parametrize("text", HONEST)
    def test_a_literal_has_the_value_that_eval_gives(self, text: str) -> None:
        expected = _outcome(eval, text)
        assert len(expected) == 2

        assert _outcome(value, text) == expected

    @pytest.mark.parametrize("text", NO_VALUES)
    def test_what_has_no_value_raises_what_eval_raises(self, text: str) -> None:
        expected = _outcome(eval, text)
        assert len(expected) == 1

        assert _outcome(value, text) == expected

    @pytest.mark.parametrize("name", ["print", "eval", "__import__", "__builtins__", "open", "int"])
    def test_no_name_has_a_value(self, name: str) -> None:
        with pytest.raises(NameError, match=f"'{name}' is not defined"):
            value(name)

    def test_a_name_that_upstream_knows_has_none(self) -> None:
        path = "/data/a.png"
        assert eval("path") == path

        with pytest.raises(NameError):
            value("path")

    @pytest.mark.parametrize("source", [None, 5, ["1"], object(), 1.5])
    def test_what_is_no_text_raises_what_eval_raises(self, source: Any) -> None:
        with pytest.raises(TypeError, match="arg 1 must be a string"):
            eval(source)
        with pytest.raises(TypeError, match="arg 1 must be a string"):
            value(source)

    def test_a_list_of_large_pictures_is_read(self, soon: None) -> None:
        pictures = ["iVBORw0KGgo" * 100_000] * 3

        assert value(repr(pictures)) == pictures


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
class TestHostile:
    @pytest.mark.parametrize("text", HOSTILE)
    def test_code_does_not_run(self, tmp_path: Path, soon: None, text: str) -> None:
        with pytest.raises((ValueError, TypeError, SyntaxError, NameError, OverflowError)):
            value(text.format(tmp_path / "ran"))
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize(
        "text",
        [
            "(" * 100_000,
            "[" * 100_000,
            "[" * 100_000 + "]" * 100_000,
            "[" * 150 + "]" * 149,
            "{1:" * 100_000,
            "-" * 100_000 + "1",
            "~" * 100_000,
            "not " * 100_000,
            "1" + "+1" * 100_000,
            "1" + "**1" * 100_000,
            "a" + ".a" * 100_000,
            "a" + "[0]" * 100_000,
            "a" + "()" * 100_000,
            "lambda:" * 100_000 + "1",
            "1" * 1_000_000,
            "-" + "1" * 1_000_000,
            "[" + "1" * 1_000_000 + "]",
            "1e" + "9" * 1_000_000 + "x",
            "'" * 100_001,
            "f'{" * 1000,
            "\\\n" * 100_000,
            "x" * 1_000_000,
        ],
        ids=lambda text: f"{text[:6]}...{len(text)}",
    )
    def test_depth_and_length_end_soon(self, soon: None, text: str) -> None:
        with pytest.raises((ValueError, TypeError, SyntaxError, NameError)):
            value(text)

    @pytest.mark.parametrize(
        "text",
        [
            "*".join(["(2**63)**1024"] * 150),
            "*".join([f"({'*'.join(['(2**63)**1024'] * 90)})"] * 90),
            "*".join(["0x" + "f" * 500_000] * 2),
            "0x" + "f" * 1_000_000 + "//0x" + "f" * 500_000,
            "0x" + "f" * 1_000_000 + "%0x" + "f" * 500_000,
            "*".join(["0x" + "f" * 250_000] * 16),
        ],
        ids=lambda text: f"{text[:6]}...{len(text)}",
    )
    def test_numbers_do_not_grow_without_end(self, soon: None, text: str) -> None:
        """As with a power: a value that takes seconds or megabytes is refused."""
        with pytest.raises(ValueError, match="large"):
            value(text)

    def test_a_value_can_be_written_down(self) -> None:
        """Upstream's toliststr makes a text of each member."""
        with pytest.raises(ValueError, match="large"):
            [str(member) for member in value("[0x" + "f" * 5000 + "]")]


PATCHED = """
import sys, types
sys.path.insert(0, {root!r})
from evalshim.worker import literals

literals.read_cells_as_literals()


def module(name, code):
    found = types.ModuleType(name)
    exec(compile(code, name, "exec"), found.__dict__)
    return found


CODE = '''
def here(text):
    own = 41
    return eval(text)

def given(text, globals=None, locals=None):
    own = 41
    return eval(text, globals, locals)

def each(texts):
    return [eval(text) for text in texts]

def mapped(texts):
    return list(map(eval, texts))

def keyed(texts):
    return [(lambda text: eval(text))(text) for text in texts]
'''
upstream, inner = module("vlmeval", CODE), module("vlmeval.dataset.utils", CODE)
plugin, near = module("evalshim_plugin_0", CODE), module("vlmevalx", CODE)


def outcome(function, *args):
    try:
        return function(*args)
    except Exception as error:
        return type(error).__name__


{body}
"""


class TestPatch:
    """In a process of its own: `eval` is everybody's."""

    def _printed(self, tmp_path: Path, body: str) -> list[str]:
        root = str(Path(__file__).parent.parent)
        ended = subprocess.run(
            [sys.executable, "-c", PATCHED.format(root=root, body=body)],
            capture_output=True, text=True, timeout=60, cwd=tmp_path,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.splitlines()

    def test_upstream_reads_literals(self, tmp_path: Path) -> None:
        body = "for m in (upstream, inner): print(m.here('[1, 2]'), m.here('3/4'))"

        assert self._printed(tmp_path, body) == ["[1, 2] 0.75"] * 2

    @pytest.mark.parametrize(
        "call",
        [
            "m.here(code)", "m.given(code)", "m.given(code, {})", "m.given(code, {}, {})",
            "m.each([code])", "m.mapped([code])", "m.keyed([code])",
        ],
    )  # fmt: skip
    def test_upstream_runs_no_cell(self, tmp_path: Path, call: str) -> None:
        code = "__import__('pathlib').Path('ran').touch()"
        body = f"code = {code!r}\nfor m in (upstream, inner): print(outcome(lambda: {call}))"

        assert self._printed(tmp_path, body) == ["ValueError"] * 2
        assert list(tmp_path.iterdir()) == []

    def test_upstreams_own_names_have_no_value(self, tmp_path: Path) -> None:
        body = "print(outcome(upstream.here, 'own'), outcome(upstream.here, 'text'))"

        assert self._printed(tmp_path, body) == ["NameError NameError"]

    def test_others_evaluate_with_the_names_of_their_caller(self, tmp_path: Path) -> None:
        body = """
top = 5
for m in (plugin, near):
    m.other = 2
    print(m.here("own + 1"), m.here("other"), outcome(m.here, "top"), m.given("own + 1"))
    print(m.given("a", {"a": 1}), m.given("a + b", {"a": 1}, {"b": 2}), m.given("b", None, {"b": 3}))
    print(outcome(m.given, "own", {}), m.mapped(["1 + 1"]), m.here("[i for i in range(2)]"))
print(eval("top"), eval("outcome.__name__"), eval(compile("top + 1", "", "eval")), eval(b"top"))
"""  # noqa: E501
        expected = ["42 2 NameError 42", "1 3 3", "NameError [2] [0, 1]"]

        assert self._printed(tmp_path, body) == [*expected, *expected, "5 outcome 6 5"]

    def test_the_standard_library_still_works(self, tmp_path: Path) -> None:
        body = """
import collections, dataclasses, doctest, typing
print(collections.namedtuple("P", "x y")(1, 2))
@dataclasses.dataclass
class C:
    a: "int" = 1
print(C(), typing.get_type_hints(C))
"""
        assert self._printed(tmp_path, body) == ["P(x=1, y=2)", "C(a=1) {'a': <class 'int'>}"]

    def test_pandas_still_works(self, tmp_path: Path) -> None:
        body = """
import pandas as pd
table = pd.DataFrame({"a": [1, 2], "b": [3, 4]})
limit = 1
print(table.query("a > @limit")["b"].tolist(), table.eval("a + b").tolist(), pd.eval("1 + 1"))
"""
        assert self._printed(tmp_path, body) == ["[4] [4, 6] 2"]
