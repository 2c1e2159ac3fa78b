# SPDX-License-Identifier: Apache-2.0

"""Runs the lines that docs/opt-in.md shows against a stand-in for LiveKit Agents for Python.

The stand-in has the signatures of livekit-agents 1.7 and does with a load and an offer
what the SDK does with them. It needs nothing but Python's own library.
"""

import asyncio
import importlib.util
import inspect
import pathlib
import sys
import tempfile
import types
import unittest
from unittest import mock

SNIPPET = pathlib.Path(__file__).with_name("snippet.py")
ORDER = 'callguard.dev/draining="drain 2026-01-02T15:04:05Z"\n'
OTHERS = 'app="agent"\nnote="callguard.dev/draining=\\"no order\\""\ncallguard.dev/gate-port="8089"\n'


class AgentServer:
    """Registers one session, and asks load_fnc with or without itself, in another thread."""

    def __init__(self, *, load_fnc=None, load_threshold=0.7):
        self.load_fnc = load_fnc
        self.load_threshold = load_threshold
        self.active_jobs = []
        self.entrypoint = self.on_request = None

    def rtc_session(self, func=None, *, agent_name="", type=None, on_request=None, on_session_end=None):
        def register(f):
            self.entrypoint, self.on_request = f, on_request
            return f

        return register if func is None else register(func)

    async def load(self):
        arguments = [self] if inspect.signature(self.load_fnc).parameters else []
        return await asyncio.get_running_loop().run_in_executor(None, lambda: self.load_fnc(*arguments))

    async def offer(self, job="job"):
        """The answer to an offer: what the request was told, "full", or nothing where the load is unknown."""
        try:
            if await self.load() >= self.load_threshold:
                return "full"
        except Exception:
            return None
        request = JobRequest()
        try:
            await self.on_request(request)
        except Exception:
            return "failed"
        if request.answer and request.answer[0] == "accept":
            self.active_jobs.append(job)
        return request.answer


class WorkerOptions:
    """What came before AgentServer; a server is made of it."""

    def __init__(self, entrypoint_fnc, request_fnc=None, prewarm_fnc=None, load_fnc=None, load_threshold=0.7):
        self.server = AgentServer(load_fnc=load_fnc, load_threshold=load_threshold)
        self.server.rtc_session(entrypoint_fnc, on_request=request_fnc)


class JobRequest:
    def __init__(self):
        self.answer = None

    async def reject(self, *, terminate=True):
        self.answer = ("reject", terminate)

    async def accept(self, *, name="", identity="", metadata="", attributes=None):
        if not all(isinstance(v, str) for pair in (attributes or {}).items() for v in pair):
            raise TypeError("attributes map text to text")
        self.answer = ("accept", attributes)


ACCEPTED = ("accept", {"callguard.dev/pod": "uid"})
PASSED_ON = ("reject", False)


class SnippetTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file = pathlib.Path(folder.name, "annotations")
        self.env = {"ANNOTATIONS": str(self.file), "POD_UID": "uid"}

    def agent(self, env=None):
        """The module, as an agent has it that has just started."""
        sdk = types.ModuleType("livekit.agents")
        sdk.AgentServer = AgentServer
        modules = {"livekit": types.ModuleType("livekit"), "livekit.agents": sdk}
        env = mock.patch.dict("os.environ", self.env if env is None else env, clear=True)
        env.start()
        self.addCleanup(env.stop)
        spec = importlib.util.spec_from_file_location("snippet", SNIPPET)
        module = importlib.util.module_from_spec(spec)
        with mock.patch.dict(sys.modules, modules):
            spec.loader.exec_module(module)
        return module

    def servers(self, **env):
        """The server of each way in which an agent is put together."""
        agent = self.agent(env.get("env"))
        yield "AgentServer", agent, agent.server
        lines = SNIPPET.read_text().splitlines()
        [call] = [line[line.index("WorkerOptions("):] for line in lines if "WorkerOptions(" in line]
        agent = self.agent(env.get("env"))
        yield "WorkerOptions", agent, eval(call, {**vars(agent), "WorkerOptions": WorkerOptions}).server

    def offers(self, server, n=1):
        async def all_of_them():
            return [await server.offer() for _ in range(n)]

        answers = asyncio.run(all_of_them())
        return answers if n > 1 else answers[0]

    def test_takes_calls_while_nobody_wants_it_to_go(self):
        for text in ("", OTHERS, OTHERS + 'callguard.dev/draining-since="x"\n', OTHERS.rstrip("\n")):
            self.file.write_text(text)
            for way, agent, server in self.servers():
                with self.subTest(way=way, text=text):
                    self.assertEqual(asyncio.run(server.load()), 0)
                    self.assertEqual(self.offers(server), ACCEPTED)
                    self.assertIs(server.entrypoint, agent.entrypoint)

    def test_passes_calls_on_once_it_has_the_order(self):
        for text in (ORDER, OTHERS + ORDER, ORDER + OTHERS, ORDER.rstrip("\n")):
            for way, agent, server in self.servers():
                with self.subTest(way=way, text=text):
                    self.file.write_text(OTHERS)
                    self.assertEqual(self.offers(server), ACCEPTED)
                    self.file.write_text(text)
                    self.assertEqual(asyncio.run(server.load()), 1.0)
                    self.assertEqual(self.offers(server), "full")
                    # A job that was offered before the load was reported.
                    request = JobRequest()
                    asyncio.run(server.on_request(request))
                    self.assertEqual(request.answer, PASSED_ON)

    def test_is_full_at_its_number_of_calls_and_no_sooner(self):
        self.file.write_text(OTHERS)
        for most in range(1, 41):
            agent = self.agent()
            agent.MAX_CALLS = most
            answers = self.offers(agent.server, most + 2)
            self.assertEqual(answers, [ACCEPTED] * most + ["full"] * 2, f"of {most} calls")

    def test_takes_calls_where_there_is_no_such_file(self):
        for reason, env in {
            "no file": self.env,
            "no folder": {**self.env, "ANNOTATIONS": "/does/not/exist"},
            "no variable": {"POD_UID": "uid"},
        }.items():
            for way, _, server in self.servers(env=env):
                with self.subTest(way=way, reason=reason):
                    self.assertEqual(self.offers(server), ACCEPTED)

    def test_takes_no_call_while_the_file_cannot_be_read(self):
        for way, agent, server in self.servers():
            for error in (PermissionError, IsADirectoryError, OSError):
                with self.subTest(way=way, error=error):
                    with mock.patch("builtins.open", side_effect=error("no")):
                        self.assertEqual(self.offers(server), "full")
                        request = JobRequest()
                        asyncio.run(server.on_request(request))
                        self.assertEqual(request.answer, PASSED_ON)
            self.file.write_text(OTHERS)
            self.assertEqual(self.offers(server), ACCEPTED, "the file can be read again")

    def test_takes_no_call_where_the_file_is_a_folder(self):
        self.file.mkdir()
        self.assertEqual(self.offers(self.agent().server), "full")

    def test_keeps_an_order_that_it_has_read(self):
        for then in ("file gone", "annotation gone"):
            for way, _, server in self.servers():
                with self.subTest(way=way, then=then):
                    self.file.write_text(ORDER)
                    self.assertEqual(self.offers(server), "full")
                    self.file.unlink() if then == "file gone" else self.file.write_text(OTHERS)
                    self.assertEqual(self.offers(server), "full")

    def test_reads_any_bytes(self):
        self.file.write_bytes(b'note="\xff\xfe"\n' + ORDER.encode())
        self.assertEqual(self.offers(self.agent().server), "full")

    def test_works_without_the_pods_uid(self):
        self.file.write_text(OTHERS)
        agent = self.agent({"ANNOTATIONS": str(self.file)})
        self.assertEqual(self.offers(agent.server), ("accept", {"callguard.dev/pod": ""}))

    def test_stand_in_takes_what_raises_for_no_answer(self):
        agent = self.agent()
        agent.server.load_fnc = lambda: 1 / 0
        self.assertIsNone(self.offers(agent.server))


if __name__ == "__main__":
    unittest.main()
