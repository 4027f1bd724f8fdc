// The JavaScript end of processes.py: lines of JSON on stdin and stdout, until stdin closes.
import { createInterface } from 'node:readline'

export async function obey (hello, commands) {
  say(hello)
  for await (const line of createInterface({ input: process.stdin })) {
    const { command, ...given } = JSON.parse(line)
    try {
      say(await commands[command](given) ?? {})
    } catch (error) {
      say({ error: error.stack })
    }
  }
  process.exit(0)
}

function say (answer) {
  process.stdout.write(JSON.stringify(answer) + '\n')
}
