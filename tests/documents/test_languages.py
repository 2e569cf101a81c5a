"""Languages by name, suffix, content and interpreter."""

from __future__ import annotations

import re

import pytest

from codeshell.documents import hints, languages, walk

# The 88 languages of StarCoderData's inspection, as the report's Table 1 writes them.
STARCODER = """
ada agda alloy antlr applescript assembly augeas awk batchfile bluespec c cpp c-sharp clojure cmake coffeescript
common-lisp css cuda dart dockerfile elixir elm emacs-lisp erlang f-sharp fortran glsl go groovy haskell html idris
isabelle java java-server-pages javascript json julia kotlin lean literate-agda literate-coffeescript
literate-haskell lua makefile maple markdown mathematica matlab ocaml pascal perl php powershell prolog
protocol-buffer python r racket restructuredtext rmarkdown ruby rust sas scala scheme shell smalltalk solidity
sparql sql stan standard-ml stata systemverilog tcl tcsh tex thrift typescript verilog vhdl visual-basic xslt yacc
yaml zig
""".split()  # noqa: SIM905


def detect(name: str, text: bytes = b"") -> str | None:
    language, look_inside = languages.by_name(name)
    return languages.by_content(name, language, text) if look_inside else language


def test_all_of_starcoder_and_of_table_1_are_there() -> None:
    assert len(STARCODER) == 88
    assert set(STARCODER) | {"swift", "objective-c"} <= set(languages.names())
    assert all(re.fullmatch(r"[a-z][a-z0-9-]*", name) for name in languages.names())


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("a.py", "python"),
        ("A.PY", "python"),
        ("x.pyx", "cython"),
        ("k.cu", "cuda"),
        ("pyproject.toml", "toml"),
        ("setup.cfg", "ini"),
        ("Makefile", "makefile"),
        ("Makefile.am", "makefile"),
        ("CMakeLists.txt", "cmake"),
        ("Dockerfile", "dockerfile"),
        ("Dockerfile.dev", "dockerfile"),
        ("Gemfile", "ruby"),
        (".bashrc", "shell"),
        ("a.b.rs", "rust"),
        ("README.md", "markdown"),
        ("readme.rst", "restructuredtext"),
        ("notes.txt", None),
        ("archive.tar.gz", None),
        ("py", None),
    ],
)
def test_by_name(name: str, language: str | None) -> None:
    assert detect(name) == language


@pytest.mark.parametrize(
    ("name", "text", "language"),
    [
        ("a.h", b"#include <stdio.h>\nint f(void);\n", "c"),
        ("a.h", b'#ifdef __cplusplus\nextern "C" {\n#endif\nint f(void);\n', "c"),
        ("a.h", b"#pragma once\n#include <vector>\n", "cpp"),
        ("a.h", b"template <class T>\nT f();\n", "cpp"),
        ("a.h", b"int f(std::string s);\n", "cpp"),
        ("a.h", b"@interface Foo : NSObject\n@end\n", "objective-c"),
        ("a.m", b"#import <Foundation/Foundation.h>\n@implementation Foo\n", "objective-c"),
        ("a.m", b"function y = f(x)\n  y = x;\nend\n", "matlab"),
        ("a.m", b"(* ::Package:: *)\n", "mathematica"),
        ("a.pl", b"#!/usr/bin/perl\nuse strict;\n", "perl"),
        ("a.pl", b":- module(a, [b/1]).\nb(X) :- c(X).\n", "prolog"),
        ("a.ts", b"export const a = 1;\n", "typescript"),
        ("a.ts", b'<?xml version="1.0"?>\n<!DOCTYPE TS>\n', None),
        ("a.v", b"module m(input a);\nendmodule\n", "verilog"),
        ("a.v", b"Require Import List.\nLemma a : True.\n", "coq"),
        ("a.d", b"main.o: main.c main.h\n", "makefile"),
        ("a.d", b"module a;\nimport std.stdio;\n", "d"),
        ("a.fs", b"module A\nlet x = 1\n", "f-sharp"),
        ("a.fs", b"#version 330\nvoid main() {}\n", "glsl"),
    ],
)
def test_shared_suffixes_are_settled_by_the_text(name: str, text: bytes, language: str | None) -> None:
    assert detect(name, text) == language


@pytest.mark.parametrize(
    ("line", "language"),
    [
        (b"#!/bin/sh\n", "shell"),
        (b"#! /usr/bin/python3.11 -u\n", "python"),
        (b"#!/usr/bin/env node", "javascript"),
        (b"#!/usr/bin/env -S FOO=1 ruby -w\n", "ruby"),
        (b"#!/usr/bin/env\n", None),
        (b"#!\n", None),
        (b"#!/usr/bin/unheard-of\n", None),
        (b"\xff\xfe#!/bin/sh", None),
        (b"", None),
    ],
)
def test_by_shebang(line: bytes, language: str | None) -> None:
    assert detect("script", line) == language
    assert detect("script.py", line) == "python", "a suffix goes before the first line"


def test_every_language_of_the_hints_is_in_the_table() -> None:
    found = {choice.language for suffix in hints.shared() for choice in hints.choices(suffix)}
    assert found - {None} <= set(languages.names())
    # A suffix is looked into, or known to be no code, or no binary format: two of these would contradict one another.
    ours = {suffix for name in languages.names() for suffix in languages.suffixes(name)} | hints.shared()
    assert not languages.NOT_CODE & ours
    assert not walk.BINARY & ours - {".mat"}


@pytest.mark.parametrize(
    ("label", "language"), [("C++", "cpp"), ("C#", "c-sharp"), ("Common Lisp", "common-lisp"), ("Python", "python")]
)
def test_by_label(label: str, language: str) -> None:
    assert languages.by_label(label) == language
    assert languages.by_label("Klingon") is None


def test_closest_helps_with_a_typing_error() -> None:
    assert "python" in languages.closest("pyhton")
    assert "cpp" in languages.closest("C++")
