// SPDX-License-Identifier: Apache-2.0

// An ordinary LiveKit agent: it answers a call and leaves when the caller does.
import { cli, defineAgent, ServerOptions } from '@livekit/agents';
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
    agentName: process.env.AGENT_NAME ?? '',
    host: process.env.HOST ?? '127.0.0.1',
    port: Number(process.env.PORT ?? 8081),
    // The machines that test this are small and busy: CPU says nothing about calls here,
    // and a job's process may take long to start.
    initializeProcessTimeout: 60_000,
    loadFunc: async (worker) => worker.activeJobs.length / 100,
  }),
);
