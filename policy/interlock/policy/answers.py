"""A tool's answer, as sidecars tell it and as it is kept: header fields and trailers are one opaque head."""

from interlock.governance.v1 import governance_pb2 as pb
from interlock.policy.model import Answer


def answer_of(message: pb.Answer) -> Answer:
    head = pb.Answer(headers=message.headers, trailers=message.trailers).SerializeToString()
    body = message.body if message.kept else b""
    return Answer(message.status, head, body, message.kept, message.size, message.digest)


def answer_message(answer: Answer) -> pb.Answer:
    message = pb.Answer.FromString(answer.head)
    message.status, message.body, message.kept = answer.status, answer.body, answer.kept
    message.size, message.digest = answer.size, answer.digest
    return message
