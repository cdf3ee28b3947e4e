"""Notifications: which alerts a namespace wants to be sent, by webhook and by mail where they are set up."""

from interlock.client import Interlock

with Interlock() as interlock:
    before = interlock.account.update_notifications(tool_errors=True)
    changed = interlock.account.update_notifications(tool_errors=False)
    print("tool errors:", changed.tool_error_notifications_enabled)
    print("others as before:", changed.email_notifications_enabled == before.email_notifications_enabled)
    print("tool errors:", interlock.account.update_notifications(tool_errors=True).tool_error_notifications_enabled)
