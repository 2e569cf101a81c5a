"""Suffixes that languages share, and names that say nothing: the text decides, or the language is unknown."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from helpers.trees import HOSTILE_DROPS, program, recipe, rows, run_collect, write_tree

from codeshell.documents import batches, hints, inputs, languages
from codeshell.documents.inputs import InputOptions


def detect(name: str, text: str | bytes) -> str | None:
    return languages.by_path(name, text.encode() if isinstance(text, str) else text)


@pytest.mark.parametrize(
    ("name", "text", "language"),
    [
        ("site.pp", "class web ($port = 80) {\n  package { 'nginx': ensure => installed }\n}\n", None),
        ("unit1.pp", "unit Unit1;\ninterface\nuses SysUtils;\nimplementation\nend.\n", "pascal"),
        ("Stack.cls", 'VERSION 1.0 CLASS\nBEGIN\nEND\nAttribute VB_Name = "Stack"\n', "visual-basic"),
        ("thesis.cls", "\\NeedsTeXFormat{LaTeX2e}\n\\ProvidesClass{thesis}\n", "tex"),
        ("Account.cls", "public with sharing class Account {\n}\n", "apex"),
        ("Report.cls", "CLASS app.Report:\nEND CLASS.\n", None),
        ("Person.cls", "Class Sample.Person Extends %Persistent\n{\nProperty Name As %String;\n}\n", None),
        ("serve.es", "#!/usr/bin/env escript\nmain(_) -> ok.\n", "erlang"),
        ("index.es", "import a from 'a';\nexport default a;\n", "javascript"),
        ("lex.re", "/*!re2c\n  re2c:define:YYCTYPE = char;\n*/\nint main() { return 0; }\n", "cpp"),
        ("app.re", "let make = (~name) => <div />;\n", "reason"),
        ("hello.v", "module main\n\nfn main() {\n\tprintln('hello')\n}\n", None),
        ("top.v", "module top\n(input clk);\nendmodule\n", "verilog"),
        ("top.sls", "base:\n  '*':\n    - nginx\n", None),
        ("lib.sls", "#!r6rs\n(library (a) (export b))\n", "scheme"),
        ("lib.sls", ";; A library\n(library (a) (export b))\n", "scheme"),
        ("filter.sc", "Filt : UGen {\n\t*ar { arg in = 0.0; ^this.multiNew('audio', in) }\n}\n", None),
        ("build.sc", "import mill._\nobject foo extends ScalaModule\n", "scala"),
        ("rand.t", "#!/usr/bin/env perl6\nuse v6;\nsay 1;\n", None),
        ("basic.t", "use strict;\nuse Test::More tests => 1;\nok(1);\n", "perl"),
        ("a.m", ":- module hello.\n:- interface.\n", None),
        ("a.m", "ROUT ;test routine\n SET X=1\n QUIT\n", None),
        ("a.m", "x = 3;\ny = x + 1; % sum\n", "matlab"),
        ("a.m", '#include "a.h"\nstatic int f(void) { return 1; }\n', "objective-c"),
        ("a.m", "words without any sign\n", None),
        ("Page.hh", "<?hh // strict\nclass Page {}\n", None),
        ("Page.hh", "class Page {};\n", "cpp"),
        (
            "mount_api.h",
            "/* Descriptors are opened here, and\n   using FD later is up to the caller.  */\nint f(int);\n",
            "c",
        ),
        ("a.h", "// class of service\n/* namespace */\nint f(void);\n", "c"),
        ("a.h", "\r#import <Foundation/Foundation.h>\r@interface A\r@end\r", "objective-c"),
        ("schema.sch", '<?xml version="1.0"?>\n<schema/>\n', None),
        ("board.sch", "EESchema Schematic File Version 2\n", None),
        ("a.sch", "(define (f x) x)\n", "scheme"),
        ("foo-1a2b.d", "/p/deps/foo-1a2b.d: src/lib.rs src/a.rs\n\n/p/deps/libfoo.rlib: src/lib.rs\n", "makefile"),
        ("calls.d", "#!/usr/sbin/dtrace -s\nsyscall:::entry { @[execname] = count(); }\n", None),
        ("calls.d", "syscall::read:entry\n{\n @[execname] = count();\n}\n", None),
        ("icon.pm", "/* XPM */\nstatic char *icon[] = {\n", None),
        ("List.pm", "my class List { has $.items; }\n", None),
        ("List.pm", "package List;\nsub new { }\n1;\n", "perl"),
        ("kernel.cl", "__kernel void add(__global float* a) { }\n", None),
        ("pack.cl", "(defun f (x) x)\n", "common-lisp"),
        ("GAP.gd", 'DeclareOperation( "Size", [ IsList ] );\n', None),
        ("player.gd", "extends Node\nvar speed = 3\n", "gdscript"),
        ("setup.r", 'REBOL [Title: "x"]\n', None),
        ("animal.ex", "include std/io.e\nprocedure main()\nend procedure\n", None),
        ("app.ex", "defmodule App do\nend\n", "elixir"),
        ("core.f", ": square dup * ;\n", None),
        ("core.f", "      PROGRAM A\n      END\n", "fortran"),
        ("simple.spec", "Name: simple\nVersion: 1\n%build\n", None),
        ("app.spec", "a = Analysis(['app.py'])\npyz = PYZ(a.pure)\n", "python"),
        ("user.spec", "require 'spec_helper'\ndescribe User do\nend\n", "ruby"),
        ("qt_de.ts", '<?xml version="1.0"?>\n<!DOCTYPE TS><TS></TS>\n', None),
        ("run.ts", "#!/usr/bin/env node\nconst a: number = 1;\n", "typescript"),
        ("tutor.cs", "===============\n=    V i t e j t e   v  t u t o r i a l u   =\n", None),
        ("Program.cs", "\ufeffusing System;\nclass Program { }\n", "c-sharp"),
        ("zone.tab", "# country codes\nAD\t+4230+00131\tEurope/Andorra\n", None),
        ("elf_i386.xdc", '/* Script for -z combreloc */\nOUTPUT_FORMAT("elf32-i386")\n', None),
        ("module.inc", "<?php\nfunction f() { return 1; }\n", "php"),
        ("module.inc", "Some words.\n", None),
        ("a.yy", "%{\n#include <a.h>\n%}\n%token A\n%%\n", "yacc"),
        ("a.yy", '{\n  "name": "room"\n}\n', "json"),
        (".eslintrc", '{ "root": true }\n', "json"),
        (".eslintrc", "root: true\n", "yaml"),
        ("scene.ma", '//Maya ASCII 2020 scene\nrequires maya "2020";\n', None),
        ("plot.ma", "(* ::Package:: *)\n", "mathematica"),
        ("all.do", "#!/bin/sh\nredo-ifchange a\n", "shell"),
        ("table.do", "use auto\nsummarize price\n", "stata"),
        (".main.o.cmd", "savedcmd_kernel/main.o := gcc -c main.c\n", "makefile"),
        ("run.cmd", "@echo off\n", "batchfile"),
        ("style.sld", '<?xml version="1.0"?>\n<StyledLayerDescriptor/>\n', None),
        ("survey.sps", "GET FILE='a.sav'.\nFREQUENCIES VARIABLES=q1.\n", None),
    ],
)
def test_the_text_decides_between_languages_that_share_a_suffix(name: str, text: str, language: str | None) -> None:
    assert detect(name, text) == language


@pytest.mark.parametrize(
    ("name", "text", "language"),
    [
        ("pip3.11", "#!/usr/bin/python3\nimport sys\n", "python"),
        ("index.cgi", '#!/usr/bin/perl\nprint "x";\n', "perl"),
        ("backup.daily", "#!/bin/bash\ncp a b\n", "shell"),
        ("vector", "// -*- C++ -*-\n#ifndef V\n#define V\n", "cpp"),
        ("Dense", "#ifndef DENSE_MODULE_H\n#define DENSE_MODULE_H\nnamespace Eigen {}\n", "cpp"),
        ("config.h.in", "/* Define to 1 if you have x. */\n#undef HAVE_X\n", "c"),
        ("setup.py.in", "import sys\n", "python"),
        ("notes.rst.txt", "Title\n=====\n", "restructuredtext"),
        ("notes.txt.in", "words\n", None),
        ("Main.java.txt", "class Main {}\n", None),
        ("tool", '#!/bin/sh\n# the next line restarts with tclsh \\\nexec tclsh "$0" "$@"\n', "tcl"),
        ("tool", "#!/bin/sh\nexec java -jar app.jar\n", "shell"),
        ("script", "# vim: set ft=ruby sw=2 :\nputs 1\n", "ruby"),
        ("script.qqq", "-- -*- mode: lua; tab-width: 4 -*-\nprint(1)\n", "lua"),
        ("a.h", "/* -*- Mode: C++; tab-width: 2 -*- */\nint f();\n", "cpp"),
        ("a.h", "/* -*- tab-width: 4 -*- */\nint f();\n", "c"),
        ("a.pl", "# vim: ft=perl6\nsay 1;\n", None),
        ("a.unknown", "\ufeff#!/usr/bin/env ruby\n", "ruby"),
        ("a.unknown", "int main(void) { return 0; }\n", None),
        ("a.log", "#!/bin/sh\n", None),
        ("template", "<?php echo 1;\n", "php"),
        ("x", "#!/usr/bin/osascript -l JavaScript\n", "javascript"),
        ("x", "#!/bin/busybox sh\n", "shell"),
        ("x", "#!/usr/bin/env -S uv run --script\r\n", "python"),
        ("LICENSE", "MIT License\n", None),
        ("", "", None),
        (".", "", None),
        ("a.", "#!/bin/sh\n", "shell"),
    ],
)
def test_names_that_say_nothing_are_looked_into(name: str, text: str, language: str | None) -> None:
    assert detect(name, text) == language


def test_a_name_that_decides_alone_is_not_looked_into() -> None:
    for name in ("a.py", "a.rs.py", "Makefile", ".editorconfig", "poetry.lock", "a.geojson", "a.txt", "a.csv"):
        assert not languages.by_name(name)[1], name
    assert languages.by_name(".editorconfig") == ("ini", False)
    assert languages.by_name("poetry.lock") == ("toml", False)


def test_no_pattern_takes_more_than_linear_time() -> None:
    # A repetition in each pattern's alphabet; quadratic ones take seconds for each.
    text = "using |public |a b c:|vim: a|exec |fn a|private |@a |class a|-*- a|let a|a |a:|; \n|a(|a\n|((|/*|//|![|a"
    units = [*text.split("|"), *' \n\r\t(|"#\\<%']
    started = time.process_time()
    for suffix in (*sorted(hints.shared()), ".h.in", ".unknown", ""):
        name = suffix if suffix in (".eslintrc", ".releaserc") else f"a{suffix}"
        language, _ = languages.by_name(name)
        for unit in units:
            languages.by_content(name, language, (unit * languages.HEAD_BYTES).encode())
    assert time.process_time() - started < 30  # 3 s; one quadratic pattern takes a minute


def test_files_with_unknown_suffixes_are_documents_if_they_show_a_language(tmp_path: Path) -> None:
    root = write_tree(
        tmp_path / "code",
        {
            "a.py": program(1),
            "job.daily": "#!/bin/bash\n" + "cp a b\n" * 30,
            "words.zzz": "words\n" * 4000,
            "mesh.zzz": b"\0\1\2" * 4000,
            "page.inc": "<?php\n" + "echo 1;\n" * 30,
            "poetry.lock": '[[package]]\nname = "a"\n',
            "late.zzz": "x\n" * languages.LOOK_BYTES + "#!/bin/sh\n",
        },
    )
    run_collect(recipe(root), tmp_path / "run")
    found = {row["path"]: row["language"] for row in rows(tmp_path / "run/collect", "documents")}
    assert found == {"a.py": "python", "job.daily": "shell", "page.inc": "php"}
    assert {row["path"]: row["rule"] for row in rows(tmp_path / "run/collect", "dropped")} == {
        "late.zzz": "unknown_language",
        "mesh.zzz": "binary",
        "poetry.lock": "lock_file",
        "words.zzz": "unknown_language",
    }
    # `dedup` leaves out the same files.
    plan = inputs.plan([str(root)], InputOptions(), 1 << 20)
    read = [row for shard in plan.shards for row in batches.rows(shard, InputOptions())]
    assert {row.place for row in read if not row.reason} == set(found)


def test_the_rest_of_a_file_with_an_unknown_suffix_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_tree(tmp_path, {"a.zzz": "words\n" * 9000, "b.zzz": "#!/bin/sh\n", "c.py": program(1)})
    opened: list[str] = []
    read_file = batches.readers.read_file
    monkeypatch.setattr(batches.readers, "read_file", lambda path, *rest: opened.append(path) or read_file(path, *rest))
    (shard,) = inputs.plan([str(root)], InputOptions(), 1 << 20).shards
    assert [row.reason for row in batches.rows(shard, InputOptions())] == ["unknown_language", "", ""]
    assert [Path(path).name for path in opened] == ["b.zzz", "c.py"]
    assert HOSTILE_DROPS["LICENSE"] == "unknown_language"
