"""A random storm of futures, tasks, handles, destructors and collections; `storm.py SEED`.

No slices of lists that a destructor may clear: up to 3.11 the collector runs inside the slice's allocation, and CPython's
own `list_slice` then reads behind the end (SIGSEGV without aioxide as well). A run that takes long means nothing.
"""

# fmt: off
# ruff: noqa
# stress with gc threshold 1 + finalizers that call back
import asyncio, aioxide, gc, sys, random, weakref, threading
random.seed(int(sys.argv[1]))
loop=aioxide.EventLoop()
errs=[]
loop.set_exception_handler(lambda l,c: errs.append((c['message'],repr(c.get('exception')))))
sys.unraisablehook=lambda a: errs.append(('unraisable',repr(a.exc_value)))
futs=[]; hs=[]; tasks=[]
class Evil:
    def __init__(s): s.c=s
    def __del__(s): act()
depth=0
class Err(Exception): pass
def act(*a):
    global depth
    if depth>3 or loop.is_closed(): return
    depth+=1
    try:
        r=random.random()
        if r<.1 and hs: random.choice(hs).cancel()
        elif r<.2 and futs:
            f=random.choice(futs)
            if not f.done(): f.set_result(Evil())
        elif r<.3 and futs: random.choice(futs).cancel(Evil())
        elif r<.4 and futs:
            f=random.choice(futs)
            if not f.done(): f.set_exception(Err(Evil()))
        elif r<.5: hs.append(loop.call_later(random.random()*.01, act, Evil(), Evil()))
        elif r<.6: hs.append(loop.call_soon(act, Evil()))
        elif r<.65: hs.append(loop.call_soon_threadsafe(act, Evil()))
        elif r<.75: tasks.append(loop.create_task(co(random.randrange(4))))
        elif r<.8 and tasks: random.choice(tasks).cancel()
        elif r<.85: futs.append(loop.create_future())
        elif r<.9:
            for l in (futs,hs,tasks):
                if len(l)>5: del l[random.randrange(len(l))]
        elif r<.93 and futs:
            random.choice(futs).add_done_callback(lambda f,e=Evil(): act())
        elif r<.95: loop._ready; loop._scheduled
        elif r<.97:
            for i in range(min(5, len(hs))): h = hs[i]; repr(h); h._args; h._callback
        elif r<.98: asyncio.all_tasks(loop) if r<.975 else [repr(tasks[i]) for i in range(min(5, len(tasks)))]
        else: 
            for l in (futs,hs,tasks): l.clear()
    except (IndexError, asyncio.InvalidStateError): pass
    finally: depth-=1
async def co(n):
    try:
        for i in range(n):
            act()
            if futs and random.random()<.7: await random.choice(futs)
            else: await asyncio.sleep(random.choice([0,.001]))
    except (Err,asyncio.InvalidStateError,ValueError): pass
    return Evil()
async def main():
    for i in range(3000):
        act()
        if i%5==0: await asyncio.sleep(0)
gc.set_threshold(*([1,1,1] if int(sys.argv[1])%2 else [20,2,2]))
loop.run_until_complete(main())
async def fin():
    for t in asyncio.all_tasks(loop):
        if t is not asyncio.current_task(): t.cancel()
    await asyncio.sleep(0.01)
loop.run_until_complete(fin())
for l in (futs,hs,tasks): l.clear()
loop.close()
from collections import Counter
print(sys.version_info[:2], sys.argv[1], Counter((m[:40],e[:60]) for m,e in errs if 'never' not in m and 'destroyed' not in m).most_common(4))
