"""Programs from a real server over a tiny model: what is asked, what is read, what stays unknown, what it took."""

import logging
import math
import time
from dataclasses import replace

import pytest

from tests.support.openai_server import Fault, source_of
from trl_pper import CodingTask
from trl_pper.generation.local_model import LocalModel
from trl_pper.generation.servers.replies import Usage
from trl_pper.generation.source import ProgramSource, hearing

#: Ends most completions of the tiny model within a few tokens.
ENDS_EARLY = {"logit_bias": {"0": 3.0}}


def chat_of(task):
    return CodingTask(task_id=task.task_id, prompt=[{"role": "user", "content": task.prompt}], tests=task.tests)


@pytest.mark.parametrize("to_task", [lambda task: task, chat_of], ids=["completions", "chat"])
def test_log_probabilities_are_those_of_the_same_model_here(server, tasks, make_model, tokenizer, to_task):
    source = source_of(server, num_programs=8, max_completion_length=40, extra_body=ENDS_EARLY)
    assert isinstance(source, ProgramSource)
    (programs,) = source.generate([to_task(tasks[0])])
    local = LocalModel(model=make_model().eval(), processing_class=tokenizer)
    expected = local.logprobs([one.prompt_ids for one in server.served], [one.token_ids for one in server.served])
    assert [one.logprob for one in programs] == pytest.approx(expected, abs=1e-3)
    assert [one.num_tokens for one in programs] == [len(one.token_ids) for one in server.served]
    # The end token is among them, for programs that have one.
    assert any(one.token_ids[-1] == tokenizer.eos_token_id for one in server.served)
    assert {one.source for one in programs} == {"tiny"}


def test_text_goes_to_completions_and_messages_to_chat(server, tasks):
    for task in (tasks[0], chat_of(tasks[0])):
        assert len(*source_of(server).generate([task])) == 2
    assert [path for path, _ in server.asked] == ["/v1/completions", "/v1/chat/completions"]
    assert server.asked[1][1]["messages"] == [{"role": "user", "content": tasks[0].prompt}]


def test_a_text_prompt_may_go_to_a_chat_server(server, tasks):
    ((one, _),) = source_of(server, chat=True).generate(tasks[:1])
    ((path, body),) = server.asked
    assert (path, body["messages"][0]["content"]) == ("/v1/chat/completions", tasks[0].prompt)
    assert one.logprob < 0


def test_every_option_reaches_the_server_and_only_those_given(server, tasks):
    list(source_of(server, seed=None, temperature=0.3).generate(tasks[:1]))
    extra = {"use_beam_search": True, "temperature": 0.5, "max_tokens": 3, "top_k": None}
    list(source_of(server, top_p=0.9, stop=["\n\n", "#"], seed=7, extra_body=extra).generate(tasks[:1]))
    (_, bare), (_, full) = server.asked
    fixed = {"prompt": tasks[0].prompt, "logprobs": 1, "model": "tiny", "n": 2}
    assert bare == {**fixed, "max_tokens": 4, "temperature": 0.3}
    further = {"top_p": 0.9, "stop": ["\n\n", "#"], "seed": 7, "use_beam_search": True}
    assert full == {**fixed, **further, "temperature": 0.5, "max_tokens": 3}


def test_a_stop_text_ends_a_completion(server, tasks, tokenizer):
    whole = [one.completion for one in next(source_of(server, max_completion_length=30).generate(tasks))]
    stop = whole[0][5]
    cut = [one.completion for one in next(source_of(server, max_completion_length=30, stop=[stop]).generate(tasks))]
    assert cut == [text.split(stop)[0] for text in whole]


def test_equal_seeds_write_equal_programs_and_others_do_not(server, tasks):
    first, again, other = (list(source_of(server, seed=seed).generate(tasks)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_tasks_are_asked_for_at_once_and_answered_in_their_order(server, tasks):
    for task, late in zip(tasks, (0.3, 0.2, 0.1, 0.0), strict=True):
        server.faults[task.prompt] = [Fault(late_seconds=late)]
    alone = [programs for task in tasks for programs in source_of(server).generate([task])]
    server.faults[tasks[0].prompt] = [Fault(late_seconds=0.3)]
    server.faults[tasks[2].prompt] = [Fault(late_seconds=0.2)]
    server.most_at_work = 0
    assert list(source_of(server, concurrency=3).generate(tasks)) == alone
    assert server.most_at_work == 3


def test_few_replies_wait_to_be_taken(server, tasks):
    many = [tasks[i % 4] for i in range(20)]
    programs = source_of(server, concurrency=2).generate(many)
    next(programs)
    time.sleep(0.2)
    assert len(server.asked) <= 5
    programs.close()
    # The server notices only when it has written what nobody reads any more.
    until = time.monotonic() + 10
    while server.at_work and time.monotonic() < until:
        time.sleep(0.01)
    assert server.at_work == 0
    assert len(server.asked) <= 5


def test_no_tasks_are_no_requests(server):
    assert list(source_of(server).generate([])) == []
    assert server.asked == []


def test_leaving_early_cancels_what_is_under_way(server, tasks):
    server.faults[tasks[1].prompt] = [Fault(late_seconds=60.0)]
    programs = source_of(server).generate(tasks)
    next(programs)
    while tasks[1].prompt not in server.prompts():
        time.sleep(0.01)
    programs.close()
    # The server is still at the late reply, for which nobody waited.
    assert server.at_work >= 1
    assert server.faults[tasks[1].prompt] == []


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        {},
        {"token_logprobs": []},
        {"token_logprobs": [None, -0.25]},
        {"token_logprobs": [-0.5, -9999.0]},
        {"token_logprobs": [-0.5, math.nan]},
        {"token_logprobs": [-0.5, 0.7]},
        {"token_logprobs": ["-0.5"]},
        {"tokens": ["a", "b"], "token_logprobs": [-0.5]},
        {"content": []},
        {"content": [{"logprob": -0.5}, {"token": "b"}]},
        {"content": [{"logprob": -0.5}, None]},
        {"content": None},
        [-0.5],
    ],
)
def test_missing_and_partial_log_probabilities_stay_unknown(server, tasks, logprobs):
    server.edit = lambda reply: {"choices": [{"text": "x", "logprobs": logprobs}]}
    ((one,),) = source_of(server, num_programs=1).generate(tasks[:1])
    assert (one.completion, one.logprob, one.num_tokens) == ("x", None, None)


def test_a_probability_of_one_may_be_rounded_up(server, tasks):
    server.edit = lambda reply: {"choices": [{"text": "x", "logprobs": {"token_logprobs": [1e-6, -0.5, 0]}}]}
    ((one,),) = source_of(server, num_programs=1).generate(tasks[:1])
    assert (one.logprob, one.num_tokens) == (-0.5, 3)


@pytest.mark.parametrize("message", [{"content": None}, {"content": "x", "reasoning_content": "so"}])
def test_logprobs_of_text_outside_the_program_are_left_out(server, tasks, message):
    server.edit = lambda reply: {"choices": [{"message": message, "logprobs": {"content": [{"logprob": -0.5}]}}]}
    ((one,),) = source_of(server, num_programs=1, chat=True).generate(tasks[:1])
    assert (one.completion, one.logprob) == (message["content"] or "", None)


@pytest.mark.parametrize(
    ("content", "completion", "logprob"),
    [
        ([{"type": "text", "text": "x"}], "x", -0.5),
        ([{"type": "text", "text": "ret"}, {"type": "text", "text": "urn x"}], "return x", -0.5),
        ([{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "u"}}], "x", -0.5),
        ([{"type": "reasoning", "text": "so"}, {"type": "text", "text": "x"}], "x", None),
        ([{"type": "thinking", "thinking": "so"}, {"type": "text", "text": "x"}], "x", None),
        # A kind that nobody knows yet may be reasoning.
        ([{"type": "plan", "text": "so"}, {"type": "text", "text": "x"}], "x", None),
        ([{"type": "image_url", "image_url": {"url": "u"}}], "", None),
        ([{"type": "text", "text": ""}], "", -0.5),
        ([], "", None),
    ],
)
def test_content_in_parts_is_the_text_of_the_text_parts(server, tasks, content, completion, logprob):
    message = {"role": "assistant", "content": content}
    server.edit = lambda reply: {"choices": [{"message": message, "logprobs": {"content": [{"logprob": -0.5}]}}]}
    ((one,),) = source_of(server, num_programs=1, chat=True).generate(tasks[:1])
    assert (one.completion, one.logprob) == (completion, logprob)


def test_a_stop_cuts_across_the_parts_of_a_content(server, tasks):
    message = {"content": [{"type": "text", "text": "return x\n"}, {"type": "text", "text": "# end"}]}
    tokens = [{"token": token, "logprob": -0.5} for token in ("return", " x", "\n", "# end")]
    server.edit = lambda reply: {"choices": [{"message": message, "logprobs": {"content": tokens}}]}
    ((one,),) = source_of(server, num_programs=1, chat=True, stop=["\n#"]).generate(tasks[:1])
    assert (one.completion, one.logprob, one.num_tokens) == ("return x", -1.0, 2)


def test_a_server_that_sends_no_logprobs_leaves_them_unknown(server, tasks):
    server.sends_logprobs = False
    assert [one.logprob for programs in source_of(server).generate(tasks) for one in programs] == [None] * 8


def test_a_server_that_refuses_logprobs_is_asked_without_them(server, tasks, caplog):
    server.refuses = {"logprobs": "logprobs is not supported with this model"}
    source = source_of(server, concurrency=1)
    for _ in range(2):
        assert [len(programs) for programs in source.generate(tasks)] == [2] * 4
    assert ["logprobs" in body for _, body in server.asked] == [True] + [False] * 8
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "refuses the field logprobs, which is sent no more: " in warnings[0]


def test_further_fields_that_a_server_refuses_are_left_out_too(server, tasks):
    server.refuses = {"n": "Only one completion choice is allowed"}
    source = source_of(server, extra_body={"n": 2})
    assert [len(programs) for programs in source.generate(tasks[:1])] == [2]
    assert [body["n"] for _, body in server.asked] == [2, 1, 1]


def test_a_server_of_one_program_a_request_is_asked_for_each(server, tasks):
    server.refuses = {"n": "Only one completion choice is allowed"}
    source = source_of(server, num_programs=3, concurrency=1)
    first, _ = source.generate(tasks[:2])
    assert len({one.completion for one in first}) == 3
    assert [body["n"] for _, body in server.asked] == [3] + [1] * 6
    # A seed each: with the same one, the server would send the same program again.
    assert [body["seed"] for _, body in server.asked[1:4]] == [0, 1, 2]


def test_programs_a_server_did_not_send_are_asked_for_again(server, tasks):
    server.most_choices = 2
    source = source_of(server, num_programs=5)
    (programs,) = source.generate(tasks[:1])
    assert len(programs) == 5
    assert [body["n"] for _, body in server.asked] == [5, 3, 1]
    assert (source.usage.programs, source.usage.missing) == (5, 0)


def test_more_programs_than_asked_for_are_left_out(server, tasks):
    server.edit = lambda reply: {"choices": [{"text": text} for text in "abc"]}
    ((one, two),) = source_of(server).generate(tasks[:1])
    assert (one.completion, two.completion) == ("a", "b")


def test_a_server_that_sends_nothing_is_asked_a_few_times(server, tasks, caplog):
    server.most_choices = 0
    source = source_of(server, num_programs=3)
    assert list(source.generate(tasks[:1])) == [[]]
    assert (len(server.asked), source.usage.missing) == (3, 3)
    assert "sent 0 of 3 programs for task 'add-1'" in caplog.text


def test_tokens_are_counted_as_the_server_counts_them(server, tasks, tokenizer):
    source = source_of(
        server, extra_body=ENDS_EARLY, num_programs=4, max_completion_length=6, seed=None, concurrency=1
    )
    list(source.generate(tasks))
    lengths = [len(one.token_ids) for one in server.served]
    cut_off = sum(one.token_ids[-1] != tokenizer.eos_token_id for one in server.served)
    assert 0 < cut_off < 16
    prompts = sum(len(tokenizer(task.prompt)["input_ids"]) for task in tasks)
    assert source.usage == Usage(
        requests=4, prompt_tokens=prompts, completion_tokens=sum(lengths), programs=16, cut_off=cut_off
    )
    assert f"{cut_off} of 16 programs cut off at the longest length" in source.usage.describe()


def test_replies_without_token_counts_make_the_sum_a_lower_bound(server, tasks):
    server.edit = lambda reply: {"choices": reply["choices"]}
    source = source_of(server)
    list(source.generate(tasks[:2]))
    assert (source.usage.uncounted, source.usage.completion_tokens) == (2, 0)
    assert "at least 0 prompt" in source.usage.describe()


def test_a_price_gives_a_cost():
    usage = Usage(requests=3, retries=1, prompt_tokens=1_000_000, completion_tokens=2_000_000)
    assert usage.cost(0.5, 1.5) == 3.5
    assert usage.describe(0.5, 1.5).endswith(", cost 3.5000")
    assert "cost" not in usage.describe()


def test_several_collections_share_one_source(server, tasks):
    """Evaluation during a collection, for instance: each has its event loop, both count into one sum."""
    source = source_of(server)
    alone = list(source_of(server).generate(tasks))
    pairs = list(zip(source.generate(tasks), source.generate(tasks), strict=True))
    assert [list(side) for side in zip(*pairs, strict=True)] == [alone, alone]
    assert (source.usage.requests, source.usage.programs) == (8, 16)


def stopped(task, *stops):
    return replace(task, stop=stops)


def test_stops_of_task_and_source_are_sent_each_once(server, tasks):
    list(source_of(server, stop=["#", "a"]).generate([stopped(tasks[0], "\ndef ", "#"), tasks[1]]))
    assert {body["prompt"]: body["stop"] for _, body in server.asked} == {
        tasks[0].prompt: ["#", "a", "\ndef "],
        tasks[1].prompt: ["#", "a"],
    }


def test_a_message_is_answered_so_stops_of_its_text_do_not_count(server, tasks):
    reply = "Sure:\ndef f(x):"
    server.edit = lambda _: {"choices": [{"message": {"content": reply}}]}
    task = stopped(tasks[0], "\ndef ")
    ((one,),) = source_of(server, num_programs=1, chat=True).generate([task])
    assert (one.completion, "stop" in server.asked[0][1]) == (reply, False)
    # Whoever writes messages and stops means them.
    ((one,),) = source_of(server, num_programs=1).generate([replace(chat_of(task), stop=task.stop)])
    assert (one.completion, server.asked[1][1]["stop"]) == ("Sure:", ["\ndef "])


def test_a_server_that_takes_few_stops_gets_few(server, tasks, caplog):
    whole = source_of(server, num_programs=1, max_completion_length=30)
    texts = [one.completion for (one,) in whole.generate(tasks)]
    asked = len(server.asked)
    stop = texts[0][5]
    task = stopped(tasks[0], "@1", "@2", "@3", "@4", stop)
    server.most_stops = 4
    source = source_of(server, num_programs=1, max_completion_length=30)
    for _ in range(2):
        ((one,),) = source.generate([task])
        assert one.completion == texts[0].split(stop)[0]
    sent = [len(body["stop"]) for _, body in server.asked[asked:]]
    assert sent == [5, 4, 4]
    assert caplog.text.count("requests have 4 stops from now on") == 1


def test_a_server_that_refuses_stops_is_asked_without_them(server, tasks, caplog):
    server.refuses = {"stop": "Unsupported parameter: 'stop' is not supported with this model."}
    server.edit = lambda _: {"choices": [{"text": "return x\n# end"}]}
    source = source_of(server, num_programs=1, concurrency=1)
    task = stopped(tasks[0], "\n#", "\n@", "\nA", "\nB", "\nC")
    for _ in range(2):
        ((one,),) = source.generate([task])
        assert one.completion == "return x"
    assert [len(body.get("stop", ())) for _, body in server.asked] == [5, 4, 0, 0]
    assert "refuses the field stop, which is sent no more: " in caplog.text


def test_a_stop_that_the_server_overlooked_is_cut_at_here(server, tasks):
    said = {"tokens": ["return x", "\n", "# end"], "token_logprobs": [-0.5, -1.0, -2.0]}
    server.edit = lambda _: {"choices": [{"text": "return x\n# end", "logprobs": said}]}
    ((one,),) = source_of(server, num_programs=1).generate([stopped(tasks[0], "\n#")])
    assert (one.completion, one.logprob, one.num_tokens) == ("return x", -0.5, 1)


def test_every_reply_is_told_before_its_task_is_yielded(server, tasks):
    # A server that sends a single program each time.
    source = source_of(server, num_programs=2, concurrency=4, extra_body={"n": 1})
    told = []
    with hearing(told.append):
        written = list(source.generate(tasks))
    assert [len(programs) for programs in written] == [2] * len(tasks)
    assert told == [0.5] * 2 * len(tasks)
