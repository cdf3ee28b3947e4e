"""For people who write tool back ends: whether a call is Interlock's."""

from interlock.client.signatures.middleware import SCOPE_KEY, SignatureMiddleware
from interlock.client.signatures.verification import Family, VerifiedCall, verify_signature

__all__ = ["SCOPE_KEY", "Family", "SignatureMiddleware", "VerifiedCall", "verify_signature"]
