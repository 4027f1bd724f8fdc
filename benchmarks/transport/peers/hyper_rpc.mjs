// @hyperswarm/rpc: one method, echo. Sides: node hyper_rpc.mjs serve BOOTSTRAP | client BOOTSTRAP KEY
import RPC from '@hyperswarm/rpc'
import { obey } from './lines.mjs'
import { open } from './own_dht.mjs'
import { median } from './sink.mjs'

const [side, bootstrap, key] = process.argv.slice(2)
const rpc = new RPC({ dht: open(bootstrap) })

if (side === 'serve') {
  const server = rpc.createServer()
  server.respond('echo', request => request)
  await server.listen()
  await obey({ key: server.publicKey.toString('hex') }, {})
} else {
  const client = rpc.connect(Buffer.from(key, 'hex'))
  const call = payload => client.request('echo', payload)
  await obey({}, {
    // Calls a second, one at a time, and the median of their times in milliseconds.
    async sequential ({ size, count }) {
      const payload = Buffer.alloc(size, 0x5a)
      const taken = []
      const began = performance.now()
      for (let number = 0; number < count; number++) {
        const asked = performance.now()
        await call(payload)
        taken.push(performance.now() - asked)
      }
      return { perSecond: count / (performance.now() - began) * 1e3, ms: median(taken) }
    },

    // Calls a second, width of them in flight.
    async concurrent ({ size, count, width }) {
      const payload = Buffer.alloc(size, 0x5a)
      const caller = async () => { for (let number = 0; number < count / width; number++) await call(payload) }
      const began = performance.now()
      await Promise.all(Array.from({ length: width }, caller))
      return { perSecond: count / (performance.now() - began) * 1e3 }
    }
  })
}
