// hyperdht as its users have it. Sides: node hyperdht.mjs testnet | serve BOOTSTRAP | client BOOTSTRAP KEY
import HyperDHT from 'hyperdht'
import createTestnet from 'hyperdht/testnet.js'
import { obey } from './lines.mjs'
import { open } from './own_dht.mjs'
import { Sink, median, pause, request } from './sink.mjs'

const [side, bootstrap, key] = process.argv.slice(2)

const sides = {
  async testnet () {
    const { bootstrap } = await createTestnet(3)
    await obey({ bootstrap: bootstrap.map(({ host, port }) => `${host}:${port}`) }, {})
  },

  async serve () {
    const own = open(bootstrap)
    const listen = async () => {
      const server = own.createServer(socket => {
        const sink = new Sink()
        socket.on('data', data => { if (sink.take(data)) socket.write(Buffer.of(1)) })
        socket.on('end', () => socket.end())
        socket.on('error', () => {})
      })
      await server.listen(HyperDHT.keyPair())
      return server.publicKey.toString('hex')
    }
    await obey({ key: await listen() }, {
      // Servers that no client has met.
      async strangers ({ count }) {
        return { keys: await Promise.all(Array.from({ length: count }, listen)) }
      }
    })
  },

  async client () {
    const own = open(bootstrap)
    const connect = (to = key) => own.connect(Buffer.from(to, 'hex'))
    let standing
    await obey({}, {
      // Seconds from the first write until the other side has all of it, over a connection that stands.
      async bulk ({ bytes, chunk }) {
        standing ??= await opened(connect())
        const began = performance.now()
        const answered = once(standing, 'data')
        for (const part of request(bytes, chunk)) if (!standing.write(part)) await once(standing, 'drain')
        await answered
        return { seconds: (performance.now() - began) / 1e3 }
      },

      // Milliseconds from connect to the first answer, a new connection for each key.
      async dial ({ keys }) {
        const taken = []
        for (const to of keys) {
          const began = performance.now()
          const socket = connect(to)
          const answered = once(socket, 'data')
          for (const part of request(1, 1)) socket.write(part)
          await answered
          taken.push(performance.now() - began)
          socket.end()
          await once(socket, 'close')
          await pause()
        }
        return { ms: median(taken) }
      }
    })
  }
}

async function opened (socket) {
  await once(socket, 'open')
  return socket
}

function once (emitter, name) {
  return new Promise((resolve, reject) => {
    emitter.once(name, resolve)
    emitter.once('error', reject)
  })
}

await sides[side]()
