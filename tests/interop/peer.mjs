// js-libp2p as a stranger would set it up, driven by lines of JSON: node peer.mjs KAD_PROTOCOL
import './older-node.mjs'
import { createHash, randomBytes } from 'node:crypto'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { peerIdFromString } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { CID } from 'multiformats/cid'
import * as Digest from 'multiformats/hashes/digest'
import { obey } from './lines.mjs'

const BULK = '/tether/interop-bulk/1'
const ECHO = '/tether/interop-echo/1'
const RAW = 0x55
const SHA256 = 0x12
const BLOCK = 1024 * 1024

async function contentAddressed (key, value) {
  const name = Buffer.from(key).toString().split('/')[2]
  if (createHash('sha256').update(value).digest('hex') !== name) throw new Error('not its value')
}

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: {
    identify: identify(),
    ping: ping({ maxOutboundStreams: 8 }), // the DHT pings on its own
    gossip: gossipsub({ globalSignaturePolicy: 'StrictSign' }),
    dht: kadDHT({
      protocol: process.argv[2],
      clientMode: false,
      peerInfoMapper: passthroughMapper,
      validators: { 'tether-manifest': contentAddressed },
      selectors: { 'tether-manifest': () => 0 }
    })
  }
})

const heard = []
const waiting = new Set()
node.services.gossip.addEventListener('message', ({ detail }) => {
  heard.push({ topic: detail.topic, data: Buffer.from(detail.data).toString(), from: detail.from?.toString() })
  stir()
})
for (const name of ['subscription-change', 'gossipsub:graft']) {
  node.services.gossip.addEventListener(name, stir)
}

// Reads until the other side has closed, and says what it was.
await node.handle(BULK, async (stream) => {
  const sum = createHash('sha256')
  for await (const part of stream) for (const bytes of listOf(part)) sum.update(bytes)
  stream.send(Buffer.from(sum.digest('hex')))
  await stream.close()
})

await node.handle(ECHO, async (stream) => {
  for await (const part of stream) if (!stream.send(part)) await drained(stream)
  await stream.close()
})

function listOf (part) {
  return part instanceof Uint8Array ? [part] : [...part]
}

function drained (stream) {
  return new Promise(resolve => stream.addEventListener('drain', resolve, { once: true }))
}

function stir () {
  for (const look of waiting) look()
}

// Resolves once the condition gives something, looked at again whenever anything happens.
function until (condition) {
  return new Promise(resolve => {
    const look = () => {
      const found = condition()
      if (!found) return
      waiting.delete(look)
      resolve(found)
    }
    waiting.add(look)
    look()
  })
}

async function collected (stream) {
  const parts = []
  for await (const part of stream) parts.push(...listOf(part))
  return Buffer.concat(parts)
}

const cidOf = digest => CID.createV1(RAW, Digest.create(SHA256, Buffer.from(digest, 'hex')))

await obey({ peer: node.peerId.toString(), addresses: node.getMultiaddrs().map(one => one.decapsulateCode(421).toString()) }, {
  async dial ({ address }) {
    const connection = await node.dial(multiaddr(address))
    return { encryption: connection.encryption, multiplexer: connection.multiplexer }
  },

  async hangUp ({ peer }) {
    await node.hangUp(peerIdFromString(peer))
  },

  async identified ({ peer }) {
    const known = () => node.peerStore.get(peerIdFromString(peer)).catch(() => undefined)
    let found
    while (!(found = await known())?.metadata.has('AgentVersion')) await soon() // what identify learns last
    return {
      protocols: found.protocols,
      agent: Buffer.from(found.metadata.get('AgentVersion') ?? []).toString(),
      addresses: found.addresses.map(one => one.multiaddr.toString())
    }
  },

  async ping ({ peer }) {
    return { ms: await node.services.ping.ping(peerIdFromString(peer)) }
  },

  async echo ({ peer, text }) {
    const stream = await node.dialProtocol(peerIdFromString(peer), ECHO)
    stream.send(Buffer.from(text))
    await stream.close()
    return { text: (await collected(stream)).toString() }
  },

  async send ({ peer, megabytes }) {
    const stream = await node.dialProtocol(peerIdFromString(peer), BULK)
    const answer = collected(stream)
    const sum = createHash('sha256')
    for (let number = 0; number < megabytes; number++) {
      const block = randomBytes(BLOCK)
      sum.update(block)
      if (!stream.send(block)) await drained(stream)
    }
    await stream.close()
    return { sent: sum.digest('hex'), received: (await answer).toString() }
  },

  async subscribe ({ topic }) {
    node.services.gossip.subscribe(topic)
  },

  async meshed ({ topic, peer }) {
    await until(() => node.services.gossip.getMeshPeers(topic).includes(peer))
  },

  async publish ({ topic, data }) {
    await node.services.gossip.publish(topic, Buffer.from(data))
  },

  async heard ({ topic, count }) {
    return { messages: await until(() => ofTopic(topic).length >= count && ofTopic(topic)) }
  },

  async provide ({ digest, peers }) {
    for (const peer of peers) await routed(peerIdFromString(peer))
    const kept = []
    for await (const event of node.services.dht.provide(cidOf(digest))) {
      if (event.name === 'PEER_RESPONSE' && event.messageName === 'ADD_PROVIDER') kept.push(event.from.toString())
    }
    return { kept }
  },

  async putValue ({ key, value, peers }) {
    for (const peer of peers) await routed(peerIdFromString(peer))
    const kept = []
    for await (const event of node.services.dht.put(Buffer.from(key), Buffer.from(value))) {
      if (event.name === 'PEER_RESPONSE' && event.messageName === 'PUT_VALUE') kept.push(event.from.toString())
    }
    return { kept }
  },

  async getValue ({ key }) {
    for await (const event of node.services.dht.get(Buffer.from(key))) {
      if (event.name === 'VALUE') return { value: Buffer.from(event.value).toString(), from: event.from.toString() }
    }
    return {}
  },

  async find ({ digest }) {
    const found = {}
    for await (const event of node.services.dht.findProviders(cidOf(digest))) {
      if (event.name !== 'PROVIDER') continue
      for (const one of event.providers) found[one.id.toString()] = one.multiaddrs.map(String)
    }
    return { found }
  }
})

// The DHT pings a peer before it takes it into its table, and tells nobody.
async function routed (peer) {
  while (await node.services.dht.routingTable.find(peer) == null) await soon()
}

function soon () {
  return new Promise(resolve => setTimeout(resolve, 10))
}

function ofTopic (topic) {
  return heard.filter(one => one.topic === topic)
}
