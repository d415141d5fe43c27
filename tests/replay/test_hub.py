"""A buffer on the Hub: private unless asked, the same when it comes back, and clear about what is refused."""

import io
import shutil

import pyarrow.parquet as pq
import pytest

from tests.support.loopback_hub import Client, LoopbackHub
from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.replay.experience import Experience

REPOSITORY = ("datasets", "me/programs")
DATA = "data/train-00000-of-00001.parquet"


@pytest.fixture(scope="module")
def connection(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with LoopbackHub() as hub:
        client = Client(hub, home)
        yield hub, client, home
        client.close()


@pytest.fixture
def hub(connection):
    hub, _, home = connection
    # What was downloaded before would be found in the cache.
    shutil.rmtree(home / "hub", ignore_errors=True)
    hub.repositories.clear()
    hub.requests.clear()
    return hub


@pytest.fixture
def client(connection):
    return connection[1].run


@pytest.fixture
def file(tmp_path):
    buffer = ReplayBuffer(50, seed=3, priority="rank", eviction="age", tokenizer="tok-1")
    chat = [{"role": "user", "content": "é?"}]
    buffer.add(
        Experience(
            task_id=f"secret-task-{n // 3}", prompt=chat if n == 4 else f"secret prompt {n // 3}", completion=f"c{n}",
            program=f"secret program {n}", pass_rate=n % 3 / 2, outcomes=("passed", "timeout"), logprob=-n / 7,
            num_tokens=n + 1, source="a|b`\nc",
        )
        for n in range(9)
    )  # fmt: skip
    path = tmp_path / "buffer.parquet"
    buffer.save(path)
    return str(path)


PUSH = """
from trl_pper import ReplayBuffer
result = ReplayBuffer.load(argument).push_to_hub("me/programs")
"""
PUSH_AS = PUSH.replace("argument", "argument[0]").replace('programs"', 'programs", private=argument[1]')
LOAD = """
from trl_pper import ReplayBuffer
buffer = ReplayBuffer.load_from_hub("me/programs", revision=argument)
buffer.check_valid()
result = [buffer.digest(), buffer.tokenizer]
"""


def test_a_buffer_comes_back_from_the_hub_as_it_was_pushed(hub, client, file):
    address = client(PUSH, file)
    assert address.startswith(f"{hub.url}/datasets/me/programs/commit/")
    (created,) = hub.asked("POST", "/api/repos/create")
    assert created["type"] == "dataset"
    assert created.get("visibility") == "private" or created.get("private") is True
    repository = hub.repositories[REPOSITORY]
    assert repository.private
    assert set(repository.files) == {DATA, "README.md"}
    assert pq.read_table(io.BytesIO(repository.files[DATA])).num_rows == 9
    assert client(LOAD) == [ReplayBuffer.load(file).digest(), "tok-1"]


def test_a_second_push_replaces_the_first(hub, client, file):
    client(PUSH, file)
    more = ReplayBuffer.load(file)
    more.add([Experience(task_id="more", prompt="p", completion="c", program="g", pass_rate=1.0)])
    more.save(file)
    client(PUSH, file)
    assert len(hub.repositories[REPOSITORY].commits) == 3
    assert client(LOAD) == [more.digest(), "tok-1"]


def test_an_earlier_push_is_loaded_by_its_revision(hub, client, file):
    first = client(PUSH, file).rpartition("/")[2]
    digest = ReplayBuffer.load(file).digest()
    ReplayBuffer().save(file)
    client(PUSH, file)
    assert client(LOAD, first) == [digest, "tok-1"]


def test_the_card_says_what_is_inside_and_quotes_nothing_of_it(hub, client, file):
    client(PUSH, file)
    card = hub.repositories[REPOSITORY].files["README.md"].decode()
    assert "| programs | 9 |" in card
    assert "| tasks | 3 |" in card
    assert "| mean pass rate | 0.500 |" in card
    assert "`tok-1`" in card
    assert "| `eviction` | age |" in card
    assert "| `chat_prompt` | string |" in card
    assert "Run them only in a sandbox" in card
    assert "`a/b' c`" in card
    assert "secret" not in card


def test_a_public_data_set_is_made_only_when_asked(hub, client, file):
    client(PUSH_AS, [file, False])
    assert not hub.repositories[REPOSITORY].private
    # Now it exists and is public: a push that is to be private must not land there.
    commits = len(hub.repositories[REPOSITORY].commits)
    assert "ValueError: private: me/programs exists and is public" in client(PUSH, file)["error"]
    assert len(hub.repositories[REPOSITORY].commits) == commits


def test_private_is_true_or_false_and_nothing_between(hub, client, file):
    assert "ValueError: private: must be True, or False" in client(PUSH_AS, [file, None])["error"]
    assert hub.requests == []


@pytest.mark.parametrize("token", [None, "hf_wrong"])
def test_a_push_without_the_right_token_says_how_to_get_one(hub, client, file, token):
    error = client(PUSH, file, token=token)["error"]
    assert "PermissionError: me/programs: the Hub refuses the token" in error
    assert "hf auth login" in error
    assert hub.repositories == {}


def test_a_wrong_token_loads_nothing_and_says_so(hub, client, file):
    client(PUSH, file)
    assert "PermissionError: me/programs: the Hub refuses the token" in client(LOAD, token="hf_wrong")["error"]


def test_missing_and_forbidden_data_sets_are_told_alike(hub, client, file):
    missing = "FileNotFoundError: me/programs: no such data set"
    assert missing in client(LOAD)["error"]
    client(PUSH, file)
    assert missing in client(LOAD, token=None)["error"]


def test_a_data_set_without_a_buffer_is_told(hub, client, file):
    client(PUSH, file)
    hub.repositories[REPOSITORY].commits.append({"README.md": b"# mine"})
    assert "FileNotFoundError: me/programs: no such data set, revision or buffer file" in client(LOAD)["error"]


@pytest.mark.slow
def test_the_datasets_library_reads_the_data_set(client, hub, file):
    client(PUSH, file)
    rows = client("""
import datasets
from trl_pper import ReplayBuffer
rows = datasets.load_dataset("me/programs", split="train")
buffer = ReplayBuffer.from_dataset(rows, seed=3, capacity=50, priority="rank", eviction="age")
result = [rows.num_rows, rows[0]["outcomes"], buffer.digest()]
""")
    assert rows == [9, ["passed", "timeout"], ReplayBuffer.load(file).digest()]
