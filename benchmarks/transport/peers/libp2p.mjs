// js-libp2p over TCP, noise and yamux. Sides: node libp2p.mjs serve | client ADDRESS
import './older-node.mjs'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { obey } from './lines.mjs'
import { Sink, median, pause, request } from './sink.mjs'

const PROTOCOL = '/benchmark/sink/1'
const [side, address] = process.argv.slice(2)

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  connectionManager: { inboundConnectionThreshold: Infinity }, // else five dials a second
  services: { identify: identify(), ping: ping() }
})

await node.handle(PROTOCOL, async (stream) => {
  const sink = new Sink()
  for await (const part of stream) if (sink.take(Buffer.from(part.subarray()))) stream.send(Buffer.of(1))
  await stream.close()
})

let standing

await obey({ address: side === 'serve' ? node.getMultiaddrs()[0].toString() : '' }, {
  async bulk ({ bytes, chunk }) {
    standing ??= await node.dialProtocol(multiaddr(address), PROTOCOL)
    const began = performance.now()
    const answered = once(standing, 'message')
    for (const part of request(bytes, chunk)) if (!standing.send(part)) await once(standing, 'drain')
    await answered
    return { seconds: (performance.now() - began) / 1e3 }
  },

  async dial ({ count }) {
    const taken = []
    for (let number = 0; number < count; number++) {
      const began = performance.now()
      const stream = await node.dialProtocol(multiaddr(address), PROTOCOL)
      const answered = once(stream, 'message')
      for (const part of request(1, 1)) stream.send(part)
      await answered
      taken.push(performance.now() - began)
      await Promise.all(node.getConnections().map(connection => connection.close()))
      await pause()
    }
    return { ms: median(taken) }
  }
})

function once (emitter, name) {
  return new Promise(resolve => emitter.addEventListener(name, resolve, { once: true }))
}
