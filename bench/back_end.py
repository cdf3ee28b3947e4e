"""The tool's back end where there is no nginx: `back_end.py PORT`. Slower, so it shows Interlock in a better light."""

import sys

from aiohttp import web

ANSWER = b'{"receipt":"ch_1","amount_usd":12.5,"paid":true}'


async def answer(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(body=ANSWER, content_type="application/json")


def main() -> None:
    app = web.Application()
    app.add_routes([web.route("*", "/{path:.*}", answer)])
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)


if __name__ == "__main__":
    main()
