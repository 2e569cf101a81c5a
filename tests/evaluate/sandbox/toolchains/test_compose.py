"""Candidate and tests as one program: the proof of end is where it must be, and what the sets ask for is done."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from codeshell.evaluate.programs import Program
from codeshell.evaluate.sandbox.toolchains.compose import Composed, Nonce, compose
from codeshell.evaluate.sandbox.toolchains.rows import table

NONCE = Nonce("end-1111", "2222")


def composed(name: str, code: str, tests: str, style: str = "multipl-e", setup: str = "") -> Composed:
    return compose(name, table()[name], Program(name, code, tests, style=style, setup=setup), NONCE)


@given(st.text(max_size=200))
def test_the_candidate_is_in_the_file_as_it_is(code: str) -> None:
    # Placeholders, backslashes and group references of a candidate are text like any other.
    for extra in (code, code + "@A@@B@\\g<0>"):
        assert composed("lua", extra, "os.exit(lu.LuaUnit.run())").files["p.lua"].startswith(extra + "\n")


def test_a_proof_stands_before_the_end_of_main() -> None:
    for tests in ("int main() {\n    assert(f() == 1);\n}\n", "int main() {\n    assert(f() == 1);\n    return 0;\n}"):
        text = composed("cpp", "int f() { return 1; }", tests).files["p.cpp"]
        assert re.search(r"assert\(f\(\) == 1\);\s+std::puts\(\"end-1111\" \"2222\"\);[^}]*\}\s*\Z", text)


def test_tests_without_an_end_are_not_run() -> None:
    assert "no end" in composed("cpp", "int f() { return 1; }", "").cannot
    assert "no class" in composed("java", "class A { }", "").cannot
    assert "no package" in composed("go", "func f() int { return 1 }", "").cannot


def test_cpp_defines_assert_again_after_the_candidate() -> None:
    text = composed(
        "cpp", "#undef assert\n#define assert(x)\nint f() { return 2; }", "int main() { assert(f() == 1); }"
    )
    after = text.files["p.cpp"].split("#define assert(x)")[1]
    assert after.index("#undef NDEBUG\n#include <assert.h>") < after.index("int main")


def test_cpp_takes_the_headers_that_its_set_has() -> None:
    main = "int main() { }"
    assert composed("cpp", "#include<bits/stdc++.h>\n", main).values["HEADER"] == "everything.hpp"
    assert composed("cpp", "#include<stdio.h>\n", main, "humaneval-x").values["HEADER"] == "common.hpp"
    # With <cstring> the library's own strlen would be called.
    own = composed("cpp", "int strlen(string str){ return 3; }", main, "humaneval-x")
    assert own.values["HEADER"] == "no-cstring.hpp"
    assert composed("cpp", "#include <openssl/md5.h>\n", main, "humaneval-x").values["LINK"] == "-lcrypto"


def test_java_starts_the_class_that_has_the_main() -> None:
    main = "    public static void main(String[] args) { }\n}\n"
    multipl_e = composed("java", "class Problem {\n", main)
    assert set(multipl_e.files) == {"Problem.java", "CodeshellEnd.java"}
    tests = f"class Helper {{ }}\npublic class Main {{\n{main}"
    humaneval_x = composed("java", "class Solution { }\n", tests, "humaneval-x")
    assert "Main.main(arguments);" in humaneval_x.files["CodeshellEnd.java"]
    assert set(humaneval_x.files) == {"Main.java", "CodeshellEnd.java"}


SETUP = 'package main\n\nimport (\n    "testing"\n    "math"\n    "github.com/stretchr/testify/assert"\n)\n'


def test_go_imports_what_the_code_uses_and_no_package_twice() -> None:
    body = 'func F(x []int) int {\n    strings.ToUpper("")\n    return int(math.Abs(1))\n}\n'
    code = f'import (\n    "math"\n    "sort"\n)\n\n{body}'
    text = composed("go", code, "func TestF(t *testing.T) { }\n", "humaneval-x", SETUP).files["p_test.go"]
    # `sort` is not used, and an unused import does not compile; `math` is in the set-up.
    assert text.count('"math"') == 1 and '"sort"' not in text and 'import "strings"' in text
    assert text.startswith("package main")
    # HumanEval-X's Go/158: "a list of strings." is no use of a package, and neither is a text.
    body = '// A list of strings.\nfunc F() string {\n    return "math.Abs"\n}\n'
    text = composed("go", body, "func TestF(t *testing.T) { }\n", "humaneval-x", SETUP).files["p_test.go"]
    assert '"strings"' not in text


def test_go_gets_a_second_file_of_the_same_package() -> None:
    files = composed("go", "package add_test\n\nfunc add() {}\n", "func TestAdd(t *testing.T) { }\n").files
    assert files["end_test.go"].startswith("package add_test\n")
    assert '"end-1111" + "2222"' in files["end_test.go"]


RUST_TESTS = """
#[cfg(test)]
mod tests {
    use super::*;

#[test]
    // Letters only.
    fn test_f() {
        let mut rng = rand::thread_rng();
        assert!(f() < rng.gen_range(b'a', b'z' + 1).into());
    }

    #[test]
    fn test_g() { assert_eq!(f(), 1); }
}
"""


def test_rust_calls_the_unit_tests_from_main() -> None:
    code = "fn main(){}\n\nuse rand::Rng;\nuse regex::Regex;\nuse md5;\n\nfn f() -> i32 { 1 }\n"
    rust = composed("rs", code, RUST_TESTS, "humaneval-x")
    text = rust.files["p.rs"]
    assert text.count("fn main") == 1
    assert re.search(
        r'tests::test_f\(\);\s+tests::test_g\(\);\s+; println!\("\{\}\{\}", "end-1111", "2222"\); \}', text
    )
    assert "#[test]" not in text and "#[cfg(test)]" not in text and "pub fn test_f()" in text
    # Of the three crates one is used, by the tests, which were written for its old version.
    assert rust.values["CRATES"] == "rand" and "use rand::Rng;" in text
    assert "regex" not in text and "md5" not in text
    assert "gen_range(b'a'..b'z' + 1)" in text


def test_rust_whose_tests_stand_in_a_comment_is_not_run() -> None:
    found = composed("rs", "fn f() {}\n", f"/*\n{RUST_TESTS}\n*/\n", "humaneval-x")
    assert "in a comment" in found.cannot and not found.files
    # A comment beside them is none of our business.
    assert not composed("rs", "fn f() {}\n", f"/* kept */\n{RUST_TESTS}", "humaneval-x").cannot


def test_rust_without_a_test_function_is_not_run() -> None:
    assert "no function" in composed("rs", "fn f() {}", "mod tests { fn f() {} }", "humaneval-x").cannot


def test_lua_ends_with_the_nonce_only_if_no_test_failed() -> None:
    text = composed("lua", "", "os.exit( lu.LuaUnit.run() )").files["p.lua"]
    assert "if failed == 0 then io.write('end-1111', '2222') end\nos.exit(failed)" in text


def test_d_runs_main_after_the_unit_tests() -> None:
    text = composed("d", "", "unittest { assert(true); }\nvoid main(){}").files["p.d"]
    assert text.count("void main") == 1 and 'rt_options = ["testmode=run-main"]' in text


def test_csharp_tests_throw_where_they_would_only_print() -> None:
    text = composed("cs", "Debug.Assert(x);", "Debug.Assert(F(1) == 2);\nSystem.Diagnostics.Debug.Assert(true);").files[
        "p.cs"
    ]
    assert text.count("CodeshellEnd.Assert(") == 2
    assert text.startswith("Debug.Assert(x);")


def test_a_nonce_is_new_and_leaves_no_trace_in_the_output() -> None:
    assert len({Nonce.new().whole for _ in range(50)}) == 50
    nonce = Nonce.new()
    printed = b"a" + nonce.whole + b"b" + nonce.first.encode() + b"c" + nonce.second.encode()
    assert nonce.removed(printed) == b"abc"
