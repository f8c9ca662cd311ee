"""Lock: one task at a time between two awaits that belong together."""

import asyncio


class Account:
    def __init__(self):
        self.balance = 0
        self.lock = asyncio.Lock()

    async def deposit(self, amount):
        seen = self.balance
        await asyncio.sleep(0.001)  # another task may deposit here
        self.balance = seen + amount

    async def deposit_safely(self, amount):
        async with self.lock:
            await self.deposit(amount)


async def worker(account, name, order):
    async with account.lock:
        order.append(name)
        await asyncio.sleep(0)


async def main():
    careless, careful = Account(), Account()
    await asyncio.gather(*(careless.deposit(1) for _ in range(20)))
    await asyncio.gather(*(careful.deposit_safely(1) for _ in range(20)))
    print("20 deposits without a lock:", careless.balance)
    print("20 deposits with a lock:", careful.balance)

    order = []
    await asyncio.gather(*(worker(careful, name, order) for name in "abcde"))
    print("the lock is fair:", *order)
    print("free at the end:", not careful.lock.locked())


asyncio.run(main())
