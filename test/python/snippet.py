# SPDX-License-Identifier: Apache-2.0

# An agent without call-gate: docs/opt-in.md shows the lines between the marks.
# begin
import os

from livekit.agents import AgentServer

MAX_CALLS = 20        # that one pod can carry
LOAD_THRESHOLD = 0.7  # of AgentServer, by default: a worker with this load is full
ordered = False


def draining():
    global ordered  # an order is final, whatever happens to the file
    try:
        with open(os.environ["ANNOTATIONS"], "rb") as file:
            if any(line.startswith(b'callguard.dev/draining="') for line in file):
                ordered = True
    except (KeyError, FileNotFoundError):
        pass  # no such file: not in Kubernetes, so accept calls
    except OSError:
        return True  # it may contain an order: accept no call that may have to end soon
    return ordered


async def on_request(request):
    if draining():
        await request.reject(terminate=False)  # the default, True, ends the call; this lets another agent have it
    else:
        await request.accept(attributes={"callguard.dev/pod": os.environ.get("POD_UID", "")})


def load_fnc(server):  # if this raised, the worker would answer no offer at all
    return 1.0 if draining() else LOAD_THRESHOLD * (len(server.active_jobs) / MAX_CALLS)


server = AgentServer(load_fnc=load_fnc)


@server.rtc_session(on_request=on_request)
async def entrypoint(ctx):
    await ctx.connect()  # and what your agent does

# Without AgentServer: WorkerOptions(entrypoint_fnc=entrypoint, request_fnc=on_request, load_fnc=load_fnc)
# end
