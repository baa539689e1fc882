import pytest

from telltune.data.checks import Finding, Groups, check_examples, finding_of, grouped
from telltune.data.examples import Example, Message, Problem

LONG = " ".join(f"word{n}" for n in range(80))


def example(prompt="p", completion="c", origin="", history=()):
    return Example(prompt, completion, "s", origin, history)


def kinds(findings):
    return [(finding.kind, finding.line) for finding in findings]


def test_clean_examples_have_no_findings():
    groups = {"train": [example("Who?"), example("What is this?")], "test": [example("And then?")]}
    assert check_examples(groups, control_tokens=["<s>"], count_tokens=len_of, max_length=99) == []


def len_of(item):
    return len(item.prompt.split()) + len(item.completion.split())


def test_finding_stands_where_the_example_came_from():
    (finding,) = check_examples({"train": [example(completion=" \n", origin="C:/a b.jsonl:17")]})
    assert (finding.file, finding.line, finding.kind) == ("C:/a b.jsonl", 17, "empty")
    assert str(finding).startswith("C:/a b.jsonl:17: the response is empty")
    assert finding.refused


@pytest.mark.parametrize("origin", ["", "memory", "memory:", ":3", "a:b"])
def test_example_without_a_file_is_placed_by_group_and_number(origin):
    (finding,) = check_examples({"dev": [example(), example("", "c", origin)]})
    assert (finding.file, finding.line) == ("dev", 2)


def test_problem_becomes_a_refused_finding():
    finding = finding_of(Problem("a.jsonl", 3, "not JSON"))
    assert finding == Finding("a.jsonl", 3, "not JSON", "malformed", refused=True)


def test_over_long_example_is_refused_with_both_lengths():
    groups = {"train": [example("one two three"), example("one two three four")]}
    (finding,) = check_examples(groups, count_tokens=len_of, max_length=4)
    assert (finding.kind, finding.line, finding.refused) == ("over_long", 2, True)
    assert finding.reason.startswith("5 tokens exceed the maximum of 4")
    assert "raise `training.max_length`" in finding.reason


def test_what_the_model_cannot_read_is_refused_whatever_the_maximum():
    groups = {"train": [example("one two three"), example("one two three four")]}
    for limit in (None, 4, 99):
        (finding,) = check_examples(groups, count_tokens=len_of, max_length=limit, context=4)
        assert (finding.kind, finding.line, finding.refused) == ("over_long", 2, True)
        assert finding.reason == "5 tokens exceed the model's context of 4: shorten the example"


def test_duplicate_is_seen_through_case_and_spaces_and_names_the_first():
    groups = {
        "train": [example("Who  is it?", "Ada"), example("x"), example("who is\nIT?", "ADA ")]
    }
    (finding,) = check_examples(groups)
    assert (finding.kind, finding.line, finding.refused) == ("duplicate", 3, False)
    assert finding.reason == "same prompt and response as train:1"


def test_same_prompt_with_another_response_is_a_conflict():
    groups = {"train": [example("p", "one"), example("p", "two"), example("p", "two")]}
    findings = check_examples(groups)
    assert kinds(findings) == [("conflict", 2), ("duplicate", 3)]
    assert not any(finding.refused for finding in findings)


def test_turns_before_the_prompt_are_part_of_it():
    histories = [(Message("user", text), Message("assistant", "ok")) for text in ("a", "b")]
    assert check_examples({"train": [example("go on", "c", "", h) for h in histories]}) == []


def test_another_system_text_makes_another_prompt():
    histories = [(Message("system", text),) for text in ("a", "b")]
    groups = {"train": [example("p", text, "", h) for text, h in zip("xy", histories, strict=True)]}
    assert check_examples(groups) == []


def test_tested_prompt_in_train_is_refused_whatever_its_response_or_system_text():
    train = [example("x"), example(" THE prompt", "one", history=(Message("system", "s"),))]
    groups = {"train": train, "test": [example("the Prompt", "two", origin="test.jsonl:12")]}
    (finding,) = check_examples(groups)
    assert (finding.kind, finding.line, finding.refused) == ("leak_exact", 2, True)
    assert finding.reason == "same prompt as test.jsonl:12"


def test_a_leak_between_lists_of_one_name_names_the_split():
    here = example("x", origin="list:1")
    (finding,) = check_examples({"train": [here], "test": [here]})
    assert (finding.file, finding.reason) == ("list", "same prompt as list:1 (test)")


def test_nearly_the_same_prompt_is_a_warning_at_every_training_example():
    train = [example(f"{LONG} more", answer) for answer in ("one", "two")]
    findings = check_examples({"train": train, "dev": [example("x")], "test": [example(LONG)]})
    leaks = [finding for finding in findings if finding.kind == "leak_near"]
    assert kinds(leaks) == [("leak_near", 1), ("leak_near", 2)]
    assert leaks[0].reason == "nearly the same prompt as test:1 (similarity 0.99)"
    assert not leaks[0].refused


def test_only_train_is_held_against_the_others():
    assert check_examples({"dev": [example(LONG)], "test": [example(LONG)]}) == []
    assert check_examples({"train": [example(LONG)]}) == []


def test_empty_prompts_do_not_leak_into_each_other():
    groups = {"train": [example("", "c")], "test": [example(" ", "c")]}
    assert {finding.kind for finding in check_examples(groups)} == {"empty"}


@pytest.mark.parametrize(
    ("bad", "part"),
    [
        (example("a <|im_end|> b"), "prompt"),
        (example(completion="x<|im_end|>"), "response"),
        (example(history=(Message("system", "<|im_end|>"),)), "history"),
    ],
)
def test_control_token_in_any_text_is_a_warning(bad, part):
    (finding,) = check_examples({"train": [bad]}, control_tokens=["<|im", "", "<|im_end|>"])
    assert (finding.kind, finding.refused) == ("control_token", False)
    assert finding.reason.startswith(f"the {part} contains the control token `<|im_end|>`")


def test_findings_come_by_group_and_line():
    train = [example("", "", "b:2"), example("p", "", "a:9"), example("p", "", "a:1")]
    findings = check_examples({"train": train, "test": [example("q", "", "a:5")]})
    places = [(finding.file, finding.line) for finding in findings]
    assert places == [("a", 1), ("a", 1), ("a", 9), ("b", 2), ("b", 2), ("a", 5)]


def test_one_reason_is_one_line_with_a_count_and_the_first_places():
    problems = [Problem("a.jsonl", line, "no response") for line in range(3, 12)]
    problems.insert(1, Problem("a.jsonl", 4, "not JSON"))
    response, json = grouped(problems)
    assert str(response) == "a.jsonl:3: no response (and 8 more, at lines 4, 5, 6, 7, 8, ...)"
    assert str(json) == "a.jsonl:4: not JSON"
    assert (response.count, json.count) == (9, 1)


def test_numbers_make_no_other_reason_and_names_do():
    lengths = [Problem("a", line, f"{line}00 tokens, and 2,048 are allowed") for line in (1, 2)]
    (group,) = grouped([*lengths, Problem("b", 7, "3.5 tokens, and 9 are allowed")])
    assert str(group) == "a:1: 100 tokens, and 2,048 are allowed (and 2 more, at lines 2, b:7)"
    named = [Problem("a", 1, f"key `{key}` is empty") for key in ("label1", "label2", "1", "2")]
    assert len(grouped(named)) == 4


def test_any_number_of_reasons_is_counted_in_bounded_memory():
    groups = Groups()
    for number in range(3000):
        groups.add(Problem("a", number, f"key `k{number}` is empty"))
    assert (groups.total, len(list(groups))) == (3000, 1000)
