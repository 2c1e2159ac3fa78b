// SPDX-License-Identifier: Apache-2.0

// An ordinary LiveKit agent: it answers a call and leaves when the caller does. Where there is an MCP server for it, it
// asks who calls, and notes the answer.
import { cli, defineAgent, ServerOptions } from '@livekit/agents';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { fileURLToPath } from 'node:url';

const crm = process.env.MCP_CRM_URL;

async function caller(room) {
  const client = new Client({ name: 'agent', version: '1.0.0' });
  try {
    await client.connect(new StreamableHTTPClientTransport(new URL(crm)));
    const answer = await client.callTool({ name: 'caller', arguments: { room } });
    return answer.content[0].text;
  } catch (error) {
    return `unknown: ${error}`; // a call goes on without
  } finally {
    await client.close();
  }
}

export default defineAgent({
  entry: async (ctx) => {
    ctx.room.on('participantDisconnected', () => ctx.shutdown('the caller left'));
    await ctx.connect();
    if (crm) await ctx.room.localParticipant.setAttributes({ caller: await caller(ctx.room.name) });
  },
});

cli.runApp(
  new ServerOptions({
    agent: fileURLToPath(import.meta.url),
    agentName: process.env.AGENT_NAME ?? '',
    host: process.env.HOST ?? '127.0.0.1',
    port: Number(process.env.PORT ?? 8081),
    // The machines that test this are small and busy: CPU says nothing about calls here,
    // a job's process may take long to start, and one to spare is enough.
    initializeProcessTimeout: 60_000,
    numIdleProcesses: 1,
    loadFunc: async (worker) => worker.activeJobs.length / 100,
  }),
);
