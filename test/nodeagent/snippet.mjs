// SPDX-License-Identifier: Apache-2.0

// An agent that does without call-gate: what README.md shows stands between the marks.
import { cli, defineAgent, ServerOptions } from '@livekit/agents';
// begin
import { readFileSync } from 'node:fs';

const draining = () => /^callguard\.dev\/draining="./m.test(readFileSync(process.env.ANNOTATIONS, 'utf8'));
const callguard = {
  requestFunc: (request) =>
    draining() ? request.reject() : request.accept('', '', '', { 'callguard.dev/pod': process.env.POD_UID }),
  loadFunc: async (worker) => (draining() ? 1 : worker.activeJobs.length / 20),
};
// end
import { fileURLToPath } from 'node:url';

export default defineAgent({
  entry: async (ctx) => {
    ctx.room.on('participantDisconnected', () => ctx.shutdown('the caller left'));
    await ctx.connect();
  },
});

cli.runApp(
  new ServerOptions({
    agent: fileURLToPath(import.meta.url),
    host: '127.0.0.1',
    port: Number(process.env.PORT),
    // The machines that test this are small and busy: a job's process may take long to start.
    initializeProcessTimeout: 60_000,
    ...callguard,
  }),
);
