"""The main job, played with real parts. Every line it tells is checked; it ends with 0 only if all of them held.

An agent script calls tools whose address is the sidecar's, a back end serves signed calls only, and an operator uses
the `interlock` command. The back end keeps its own books: what Interlock says is compared with what really happened.
"""

import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from stage import Answer, Stage

CHARGE = "payments.charge"
FEE_USD = "0.30"
SEARCHES_PAID_FOR = 25
LOOP = 40


def setting_the_stage(stage: Stage) -> None:
    title("The operator registers three tools and says what two agents may do")
    stage.register(CHARGE, "/charge", "--timeout-ms", "2000", "--risk", "high")
    stage.register("mail.send", "/mail")
    stage.register("web.search", "/search")
    stage.operator("policies", "put", "shopper", "--block", "mail.*", "--price", f"{CHARGE}={FEE_USD}")
    budget = f"{SEARCHES_PAID_FOR / 100:.2f}"
    stage.operator(*("policies", "put", "researcher", "--max-spend-usd-per-day", budget, "--price", "web.search=0.01"))


def a_charge(stage: Stage) -> None:
    title(f"The agent charges a card: POST {stage.url}/tools/{CHARGE}")
    order = {"order": "A-1001", "usd": 59}
    [answer] = stage.agent("shopper", CHARGE, order)
    expect(answer, status=200, decision="executed", replayed=False)
    tell(answer, f"{receipt(answer)} over 59 USD; the tool checked the signature and charged the card")
    expect({"status": stage.call_back_end_directly("/charge", order)}, status=401)
    print("             (the same request without the sidecar is not signed: the tool answers 401)")

    title("The answer seems to have been lost, so the agent tries again")
    [again] = stage.agent("shopper", CHARGE, order)
    expect(again, status=200, decision="dedup", replayed=True, body=answer["body"])
    expect(stage.ledger(), charges=[answer["body"]], requests={"/tools/charge": 1})
    tell(again, f"{receipt(again)} from the record; the tool was not asked, the card not charged again")


def a_blocked_tool(stage: Stage) -> None:
    title("The agent has been talked into sending mail, which its policy blocks")
    [answer] = stage.agent("shopper", "mail.send", {"to": "everyone@example.com"})
    expect(answer, status=403, decision="blocked", reason="tool_explicitly_blocked")
    expect(stage.ledger()["requests"], **{"/tools/charge": 1})
    tell(answer, f"403 {answer['reason']}; no mail left")


def a_runaway_loop(stage: Stage) -> None:
    title(f"Another agent runs away: {LOOP} searches at 0.01 USD, with 0.{SEARCHES_PAID_FOR} USD a day")
    wait_out_midnight()
    answers = list(stage.agent("researcher", "web.search", {"query": "again {n}"}, "--times", str(LOOP)))
    executed, refused = answers[:SEARCHES_PAID_FOR], answers[SEARCHES_PAID_FOR:]
    for answer in executed:
        expect(answer, status=200, decision="executed")
    for answer in refused:
        expect(answer, status=402, decision="blocked", reason="max_spend_usd_per_day_exceeded")
    expect({"refused": len(refused)}, refused=LOOP - SEARCHES_PAID_FOR)
    expect(stage.ledger()["requests"], **{"/tools/search": SEARCHES_PAID_FOR})
    tell(executed[-1], f"{len(executed)} searches, and the tool counted {SEARCHES_PAID_FOR}")
    tell(refused[0], f"{len(refused)} searches: 402 {refused[0]['reason']}")


def a_kill_switch(stage: Stage) -> None:
    title("The operator pulls the kill switch, and lifts it again")
    order = {"order": "A-1002", "usd": 12}
    stage.operator("switch", "on", "--reason", "looking into it")
    [answer] = stage.agent("shopper", CHARGE, order)
    expect(answer, status=403, decision="blocked", reason="kill_switch")
    tell(answer, "403 kill_switch: the very next call is refused")
    stage.operator("switch", "off")
    [answer] = stage.agent("shopper", CHARGE, order)
    expect(answer, status=200, decision="executed")
    tell(answer, f"{receipt(answer)}: and the next one after that goes through")


def a_crash(stage: Stage) -> None:
    title("A slow bank: the charge is made, and before its answer is there, Interlock is killed (SIGKILL)")
    order = {"order": "A-1003", "usd": 99, "bank": "slow"}
    answers = stage.agent("shopper", CHARGE, order, "--patience", "30")
    stage.wait_until_charged("A-1003")
    stage.kill_interlock()
    answer = next(answers)
    expect(answer, decision="lost")
    tell(answer, "the agent's connection broke; was the card charged? it cannot know, and tries again")
    stage.start_interlock()
    print("  $ interlock dev   (restarted on the same data)")
    *waiting, answer = [answer for answer in answers if answer["decision"] != "lost"]
    for in_flight in waiting:
        expect(in_flight, status=409, reason="in_flight")
    if waiting:
        tell(waiting[0], "409: the crashed try still holds its lease, so nobody may repeat it yet")
    expect(answer, status=200, decision="executed")
    made = [charge for charge in stage.ledger()["charges"] if charge["order"] == "A-1003"]
    expect({"made": made, "requests": stage.ledger()["requests"]["/tools/charge"]}, made=[answer["body"]], requests=4)
    tell(answer, f"{receipt(answer)}: tried again with the same Idempotency-Key; the tool knew it, one charge")


def the_audit_trail(stage: Stage) -> None:
    title("What the audit trail says of the first agent")
    events = stage.operator("audit", "show", "--agent", "shopper")
    expect({"seq": [event["seq"] for event in events]}, seq=list(range(1, len(events) + 1)))
    for event in events:
        charged = f"{event['charged_usd']:+.2f} USD" if event["charged_usd"] else ""
        line = (f"{event['seq']:>4}", f"{event['type']:<11}", f"{event['tool'] or '-':<16}", f"{event['verdict']:<10}")
        print("  ".join((*line, f"{event['reason'] or '':<24}", charged)).rstrip())
    decided = Counter(event["verdict"] for event in events if event["type"] == "decision")
    # A permit is taken back, and the call judged again, if a switch moved in the moment it was given.
    withdrawn = sum(event["type"] == "withdrawal" for event in events)
    expect(decided, EXECUTE=4 + withdrawn, REPLAY=1, BLOCKED=2)
    charged = sum(Decimal(str(event["charged_usd"])) for event in events)
    expect({"charged": charged}, charged=3 * Decimal(FEE_USD))
    if withdrawn:
        print(
            "  (withdrawal: a switch or a rule had just changed, so the permit was taken back and the call judged anew)"
        )
    print(f"  (three charges at {FEE_USD} USD: the replay, the refusals and the second try of A-1003 cost nothing)")


def wait_out_midnight() -> None:
    """The budget is of a UTC day: a loop over midnight would have two of them."""
    now = datetime.now(UTC)
    left = timedelta(days=1) - timedelta(hours=now.hour, minutes=now.minute, seconds=now.second)
    if left < timedelta(seconds=20):
        time.sleep(left.total_seconds())


def tell(answer: Answer, text: str) -> None:
    """A line of the story, with the decision it is about."""
    print(f"  {answer['decision']:<9}  {text}")


def title(text: str) -> None:
    print(f"\n{text}", flush=True)


def receipt(answer: Answer) -> str:
    return f"receipt {answer['body']['receipt']}"


def expect(found: Mapping[str, Any], **expected: object) -> None:
    """Ends the play if what is told would not be true."""
    different = {name: found.get(name) for name, value in expected.items() if found.get(name) != value}
    if different:
        raise SystemExit(f"\nNOT SO: expected {expected}, found {different} in {dict(found)}")


SCENES = (setting_the_stage, a_charge, a_blocked_tool, a_runaway_loop, a_kill_switch, a_crash, the_audit_trail)


def main() -> None:
    with Stage() as stage:
        for scene in SCENES:
            scene(stage)
    print("\nAll of it was checked against the tool's own books. Next: .venv/bin/interlock dev")


if __name__ == "__main__":
    main()
