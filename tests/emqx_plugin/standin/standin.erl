%% What the stand-ins for EMQX share: a table of what was configured and called.
-module(standin).

-compile({no_auto_import, [get/1, put/2]}).
-export([new/0, put/2, get/2, calls/1, called/2]).

new() ->
    ets:new(?MODULE, [named_table, public]).

put(Key, Value) ->
    true = ets:insert(?MODULE, {Key, Value}),
    ok.

get(Key, Default) ->
    case ets:lookup(?MODULE, Key) of
        [{_, Value}] -> Value;
        [] -> Default
    end.

called(Function, Arguments) ->
    ?MODULE:put({calls, Function}, [Arguments | calls(Function)]).

%% The arguments of each call, the newest first.
calls(Function) ->
    ?MODULE:get({calls, Function}, []).
