"""From files to the frozen plan of a call."""

import msgspec
import pytest

from bridge.call.plan import BargeIn, Policies
from bridge.errors import UsageError
from bridge.settings import Directory, IncomingCall
from bridge.settings.agents import AgentFile
from bridge.settings.plans import policies
from bridge.telephony.twilio import CAPABILITIES
from tests.settings.conftest import AGENT, Folder

LOCAL_URL = "ws://127.0.0.1:9/v1/realtime"


def incoming(called: str = "+15550101") -> IncomingCall:
    return IncomingCall(CAPABILITIES, "CA1", "AC1", "+15550100", called, variables={"CallerName": "Ada"})


def directory(folder: Folder, env: dict[str, str] | None = None) -> Directory:
    made = Directory(folder.load(env), new_id=iter(["one", "two", "three"]).__next__)
    made.local_model_at(LOCAL_URL)
    return made


def test_the_most_exact_entry_for_a_number_wins(folder: Folder) -> None:
    for name in ("sales", "support", "night"):
        folder.write(f"agents/{name}.yaml", AGENT)
    folder.write("numbers.yaml", '+15550100: sales\n"+1*": night\n"+1555*": support\n"sip:*@pbx.example": sales\n')
    found = directory(folder)
    assert found.route("+15550100") == "sales"
    assert found.route("+15550199") == "support"
    assert found.route("+18005550100") == "night"
    assert found.route("+4930123456") == "front-desk"
    assert found.route("sip:desk@pbx.example") == "sales"
    assert found.route("") == "front-desk"


def test_a_pattern_does_not_count_a_character_twice(folder: Folder) -> None:
    folder.write("agents/sales.yaml", AGENT)
    folder.write("numbers.yaml", '"+155*551": sales\n')
    assert directory(folder).route("+1551") == "front-desk"
    assert directory(folder).route("+1550551") == "sales"


def test_a_plan_holds_the_call_and_its_agent_and_no_secret(folder: Folder) -> None:
    env = {"BRIDGE_REALTIME__API_KEY": "canary-key", "BRIDGE_REALTIME__MODEL": "m1"}
    folder.write("agents/front-desk.yaml", AGENT + "greeting: Say hello.\nvoice: marin\nlanguage: en\n")
    plan, targets = directory(folder, env).plan(incoming())
    assert (plan.call_id, plan.carrier_call_id, plan.caller, plan.called) == ("one", "CA1", "+15550100", "+15550101")
    assert (plan.agent.name, plan.agent.greeting, plan.session.voice) == ("front-desk", "Say hello.", "marin")
    assert plan.variables == {"CallerName": "Ada"}
    assert [model.name for model in plan.models] == ["openai"]
    assert (plan.session.model_encoding, plan.session.model_rate_hz) == ("pcm16", 24_000)
    assert "canary-key" not in repr(plan) + repr(targets) + msgspec.json.encode(plan).decode()
    assert targets[0].model == "m1"


def test_two_calls_with_different_agents_share_nothing_that_can_change(folder: Folder) -> None:
    folder.write("agents/sales.yaml", "instructions: Sell.\ntransfer_targets: {boss: '+15550199'}\n")
    folder.write("numbers.yaml", "+15550102: sales\n")
    found = directory(folder)
    first, _ = found.plan(incoming())
    second, _ = found.plan(incoming("+15550102"))
    assert (first.call_id, second.call_id) == ("one", "two")
    assert (first.session.instructions, second.session.instructions) == ("Answer the telephone.", "Sell.")
    second.agent.transfer_targets["crook"] = "+15550666"
    third, _ = found.plan(incoming("+15550102"))
    assert third.agent.transfer_targets == {"boss": "+15550199"}


def test_without_a_key_and_a_url_the_model_on_this_machine_speaks_under_the_agents_name(folder: Folder) -> None:
    found = directory(folder)
    assert found.needs_local_model
    (target,) = found.targets("front-desk")
    assert (target.profile.name, target.where, target.model) == ("local", LOCAL_URL, "front-desk")


def test_with_a_key_it_is_openai_and_nothing_runs_here(folder: Folder) -> None:
    found = directory(folder, {"BRIDGE_REALTIME__API_KEY": "k"})
    assert not found.needs_local_model
    assert found.targets("front-desk")[0].profile.name == "openai"


def test_an_agent_chooses_its_service_model_and_failover(folder: Folder) -> None:
    folder.write("agents/front-desk.yaml", AGENT + "model: {service: main, model: mine, failover: [backup, local]}\n")
    folder.write(
        "bridge.yaml",
        "services:\n  main: {profile: openai, model: theirs}\n"
        "  backup: {profile: azure, url: 'wss://a.example/openai/v1/realtime', model: deployed}\n",
    )
    env = {"BRIDGE_SERVICES__MAIN__API_KEY": "k1", "BRIDGE_SERVICES__BACKUP__API_KEY": "k2"}
    plan, targets = directory(folder, env).plan(incoming())
    assert [(one.profile.name, one.model) for one in targets] == [
        ("openai", "mine"),
        ("azure", "deployed"),
        ("local", "front-desk"),
    ]
    assert [model.name for model in plan.models] == ["openai", "azure", "local"]
    assert directory(folder, env).needs_local_model


@pytest.mark.parametrize(
    ("text", "barge_in"),
    [
        ("barge_in: off", BargeIn("off")),
        ("barge_in: {after_ms: 300}", BargeIn("after_ms", 300)),
        ("greeting_protected: true", BargeIn("immediate")),
    ],
)
def test_where_interrupting_is_ours_to_decide_the_session_neither_interrupts_nor_answers(
    folder: Folder, text: str, barge_in: BargeIn
) -> None:
    folder.write("agents/front-desk.yaml", AGENT + text + "\n")
    plan, targets = directory(folder, {"BRIDGE_REALTIME__API_KEY": "k"}).plan(incoming())
    assert plan.agent.policies.barge_in == barge_in
    assert not plan.models[0].model_interrupts and not plan.models[0].model_answers
    assert not targets[0].profile.model_interrupts and not targets[0].profile.model_answers
    session = targets[0].dialect().session_update(plan.session)
    assert b'"interrupt_response":false' in session and b'"create_response":false' in session


def test_an_immediate_agent_leaves_interrupting_to_the_service(folder: Folder) -> None:
    plan, _ = directory(folder, {"BRIDGE_REALTIME__API_KEY": "k"}).plan(incoming())
    assert plan.models[0].model_interrupts and plan.models[0].model_answers


def test_every_policy_can_be_set_in_an_agents_file_and_has_the_cores_default() -> None:
    assert policies(AgentFile(instructions="x")) == Policies()
    other = AgentFile.model_validate(
        {
            "instructions": "x",
            "barge_in": {"after_ms": 1},
            "greeting_protected": True,
            "interrupt_goodbye": True,
            "lead_ms": 401,
            "uplink_frame_ms": 60,
            "idle": {"prompt_after_s": 1, "hang_up_after_s": 2, "prompt": "a", "goodbye": "b"},
            "duration": {"max_s": 61, "warn_before_s": 7, "warning": "c", "goodbye": "d"},
            "max_tokens": 5000,
            "tools_per_turn": 1,
            "tools_per_call": 2,
            "timing": {
                "slice_ms": 20,
                "goodbye_wait_s": 1,
                "stream_wait_s": 1,
                "first_media_s": 1,
                "caller_pause_ms": 100,
                "hold_caller_ms": 1,
                "digits_gap_ms": 1,
                "filler_after_s": 0.5,
                "answer_filler_s": 1,
                "answer_retry_s": 1,
                "answer_rotate_s": 1,
                "model_ready_s": 1,
                "model_retry_s": [1],
            },
        }
    )
    changed, defaults = policies(other), Policies()
    for field in msgspec.structs.fields(Policies):
        assert getattr(changed, field.name) != getattr(defaults, field.name), f"no agent can set {field.name}"


@pytest.mark.parametrize(
    ("idle", "asks_after_s", "hangs_up_after_s"),
    [("{prompt_after_s: 0}", 0, 0), ("{prompt_after_s: 0, hang_up_after_s: 8}", 0, 8), ("{prompt_after_s: 5}", 5, 20)],
)
def test_who_is_not_asked_is_let_go_only_where_the_file_says_so(
    folder: Folder, idle: str, asks_after_s: float, hangs_up_after_s: float
) -> None:
    folder.write("agents/front-desk.yaml", f"{AGENT}idle: {idle}\n")
    policies = directory(folder).plan(incoming())[0].agent.policies
    assert (policies.idle_prompt_after_s, policies.idle_hang_up_after_s) == (asks_after_s, hangs_up_after_s)


def test_tools_say_to_the_model_what_it_needs_and_no_number(folder: Folder) -> None:
    folder.write(
        "agents/front-desk.yaml",
        AGENT + "tools: [hang_up, transfer, {name: find_order, description: Finds it., python: 'shop.orders:find',"
        " parameters: {type: object, properties: {number: {type: string}}}, timeout_s: 3}]\n"
        "transfer_targets: {boss: '+15550199', desk: 'sip:desk@pbx.example'}\nfallback: {transfer: boss}\n",
    )
    plan, _ = directory(folder).plan(incoming())
    hang_up, transfer, find_order = plan.session.tools
    assert (hang_up.kind, transfer.kind, find_order.kind) == ("builtin", "builtin", "python")
    assert transfer.parameters["properties"]["target"]["enum"] == ["boss", "desk"]
    assert (find_order.entry, find_order.timeout_s) == ("shop.orders:find", 3.0)
    assert "+1555" not in repr(plan.session)
    assert (plan.agent.fallback, plan.agent.fallback_target) == ("transfer", "+15550199")


def test_mu_law_is_passed_through_where_the_service_takes_it(folder: Folder) -> None:
    folder.write("agents/front-desk.yaml", AGENT + "audio: pcmu\n")
    plan, _ = directory(folder, {"BRIDGE_REALTIME__API_KEY": "k"}).plan(incoming())
    assert (plan.session.model_encoding, plan.session.model_rate_hz) == ("mulaw", 8000)
    speaches = {"BRIDGE_REALTIME__PROFILE": "speech-to-speech", "BRIDGE_REALTIME__URL": "ws://127.0.0.1:1/v1/realtime"}
    assert any("audio = 'pcmu'" in line for line in folder.mistakes(speaches))


def test_an_agents_clips_are_read_into_the_carriers_format(folder: Folder) -> None:
    import wave

    with wave.open(str(folder.path / "agents/hum.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(2 * 16_000))
    more = "clips: {filler: hum.wav, later: hum.wav}\nfallback: {message: later}\n"
    folder.write("agents/front-desk.yaml", AGENT + more)
    plan, _ = directory(folder).plan(incoming())
    assert len(plan.agent.clips["filler"]) == len(plan.agent.clips["later"]) == 8000
    assert (plan.agent.fallback, plan.agent.fallback_message) == ("hang_up", "later")

    folder.write("agents/front-desk.yaml", AGENT + "clips: {filler: hmm.wav, apology: front-desk.yaml}\n")
    said = folder.mistakes()
    assert len(said) == 2 and all("clips." in line and "WAV" in line for line in said)


@pytest.mark.parametrize(
    ("bridge", "agent", "complaint"),
    [
        (
            "realtime: {profile: opnai}",
            "",
            "realtime.profile = 'opnai': there is no such profile; did you mean openai?",
        ),
        ("realtime: {profile: openai}", "", "Set BRIDGE_REALTIME__API_KEY"),
        ("realtime: {profile: localai, url: 'ws://192.0.2.1/v1/realtime'}", "", "unencrypted"),
        ("realtime: {profile: localai, url: 'ftp://192.0.2.1/'}", "", "realtime.url"),
        ("services: {b: {profile: azure, api_key: k}}", "", "Set BRIDGE_SERVICES__B__URL"),
        ("services: {bakup: {}}", "model: {failover: [backup]}", "there is no service 'backup'; did you mean bakup?"),
    ],
)
def test_a_model_that_cannot_be_reached_is_said_before_the_first_call(
    folder: Folder, bridge: str, agent: str, complaint: str
) -> None:
    folder.write("bridge.yaml", bridge + "\n")
    folder.write("agents/front-desk.yaml", AGENT + agent + "\n")
    said = folder.mistakes()
    assert len(said) == 1 and complaint in said[0], said


def test_plain_text_to_another_machine_needs_an_explicit_word(folder: Folder) -> None:
    env = {"BRIDGE_REALTIME__PROFILE": "localai", "BRIDGE_REALTIME__URL": "ws://192.0.2.1/v1/realtime"}
    folder.mistakes(env)
    assert directory(folder, {**env, "BRIDGE_ALLOW_PLAIN": "true"}).targets("front-desk")


def test_a_model_that_serve_will_start_has_no_address_before(folder: Folder) -> None:
    folder.write("bridge.yaml", "services: {here: {profile: local}}\n")
    folder.write("agents/front-desk.yaml", AGENT + "model: {failover: [here]}\n")
    env = {"BRIDGE_REALTIME__API_KEY": "k"}
    openai = "wss://api.openai.com/v1/realtime"
    assert Directory(folder.load(env)).places("front-desk") == (openai, "started by serve")
    assert directory(folder, env).places("front-desk") == (openai, LOCAL_URL)
    folder.write("bridge.yaml", "services: {here: {profile: local, url: 'ws://127.0.0.1:9/v1/realtime'}}\n")
    assert Directory(folder.load(env)).places("front-desk") == (openai, "ws://127.0.0.1:9/v1/realtime")


def test_an_unusable_local_address_is_refused(folder: Folder) -> None:
    made = directory(folder)
    made.local_model_at("nonsense")
    with pytest.raises(UsageError):
        made.plan(incoming())
